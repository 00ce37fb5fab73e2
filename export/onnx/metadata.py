"""Record what a graph predicts in the metadata of its file, which names its outputs, and read its inputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import helper


def write_metadata(path: Path, task: str, labels: Sequence[str]) -> None:
    """Set ``task`` and ``labels`` (a JSON list, in the order of the outputs) in a file's ``metadata_props``.

    ONNX Runtime returns them in ``session.get_modelmeta().custom_metadata_map``. External data is left as it is.

    Args:
        path: A graph's file, which is rewritten.
        task: Name of the task that the model was trained for.
        labels: Names of the outputs.
    """
    graph = onnx.load_model(str(path), load_external_data=False)
    helper.set_model_props(graph, {"task": task, "labels": json.dumps([*labels], ensure_ascii=False)})
    onnx.save_model(graph, str(path))


def input_names(path: Path) -> list[str]:
    """Return the names of the inputs that a graph's file declares, in their order."""
    return [node.name for node in onnx.load_model(str(path), load_external_data=False).graph.input]
