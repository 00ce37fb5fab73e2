"""Target of ONNX graphs on an NVIDIA GPU by ONNX Runtime's TensorRT provider, which builds an engine for each graph."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from .base import Opened, OpenOptions, Target, register
from .onnx import open_classifier

_TYPICAL = 32, 16  # texts and tokens: the shape that an engine's kernels are chosen for
_LEAST_NODES = 1  # of a subgraph that becomes an engine


def _missing() -> str | None:
    from ...runtime.session.providers import TENSORRT, missing_provider

    return missing_provider(TENSORRT)


def _open(options: OpenOptions) -> Opened:
    from ...runtime.session.providers import CUDA, TENSORRT

    shapes = profile_shapes(input_names(Path(options.directory)), options.max_batch_size, options.max_length)
    # Engines are not cached by default, so that the time to build one is that of a new one. In ONNX Runtime's Python
    # interface a Boolean of this provider is "True" or "False"; numbers are rejected.
    engine = {**shapes, "trt_min_subgraph_size": str(_LEAST_NODES)}
    began = time.perf_counter()
    opened = open_classifier(options, providers=[(TENSORRT, engine), CUDA], io_binding=True)
    # For another length, the engine would be built again.
    return replace(opened, engine_build_s=time.perf_counter() - began, at_length=None)


def input_names(directory: Path) -> list[str]:
    """Return the names of the inputs of a variant's graph."""
    import onnx

    from ...artifact.manifest import MODEL_FILE

    graph = onnx.load(str(directory / MODEL_FILE), load_external_data=False).graph
    return [each.name for each in graph.input]


def profile_shapes(names: list[str], max_batch_size: int, max_length: int) -> dict[str, str]:
    """Return the provider's options for one engine for every batch; without them, one is built for each new range.

    Args:
        names: Inputs of the graph, each of shape [B, L].
        max_batch_size: Largest B.
        max_length: Largest L.
    """
    texts, tokens = _TYPICAL
    ranges = {
        "min": (1, 1),
        "opt": (min(texts, max_batch_size), min(tokens, max_length)),
        "max": (max_batch_size, max_length),
    }

    def shapes(batch: int, length: int) -> Any:
        return ",".join(f"{name}:{batch}x{length}" for name in names)

    return {f"trt_profile_{which}_shapes": shapes(*shape) for which, shape in ranges.items()}


register(
    Target(
        "tensorrt",
        "ONNX Runtime on an NVIDIA GPU, by its TensorRT provider",
        _open,
        is_gated=True,
        can_be_sealed=True,
        is_onnx=True,
        color="#b279a2",
        measures="onnx",
        missing=_missing,
    )
)
