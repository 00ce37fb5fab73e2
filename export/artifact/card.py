"""Write the model card of an artifact: its ``README.md``, with the metadata that a model hub reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..markdown import render


def model_card(labels: Sequence[str], made_from: Mapping[str, Any], measurements: Mapping[str, Any]) -> str:
    """Return the text of a model card.

    Args:
        labels: Labels of the classifier.
        made_from: Data, teacher, hyperparameters and versions of the classifier; JSON values.
        measurements: Measurements of the classifier; JSON values.
    """
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        library_name="onnxruntime",
        pipeline_tag="text-classification",
        tags=["distiltune", "distillation", "onnx"],
    )
    values = {
        "labels": labels,
        "sections": {"Measured": [*_flatten(measurements)], "Made from": [*_flatten(made_from)]},
    }
    body = render(__name__, "card.md.j2", values)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}"))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and value of everything that is not None."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", value
