"""What is done to a plain or fused graph to make each variant of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from .quantize import quantize_embeddings, quantize_onnx, quantize_weights, to_half
from .static import quantize_static_onnx

Rows = Sequence[np.ndarray]
Recipe = Callable[[Path, Path, Rows], bool | None]
"""From a graph to another file, with token ids of training texts; whether weights were held to 7 bits."""


def _dynamic(
    source: Path, target: Path, _: Rows, *, per_channel: bool = False, reduced: bool | None = None
) -> bool:
    return quantize_onnx(source, target, per_channel=per_channel, reduce_range=reduced)


def _dynamic_with_small_table(source: Path, target: Path, _: Rows) -> bool:
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        half_way = Path(folder) / target.name
        quantize_embeddings(source, half_way)
        return quantize_onnx(half_way, target)


def _weights(source: Path, target: Path, _: Rows, *, bits: int) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        half_way = Path(folder) / target.name
        if bits == 4:
            quantize_embeddings(source, half_way)
            quantize_weights(half_way, target, bits=bits)
        else:
            quantize_weights(source, half_way, bits=bits)
            quantize_onnx(half_way, target, operators=["Gather"])


def _half(source: Path, target: Path, _: Rows) -> None:
    to_half(source, target)


RECIPES: dict[str, Recipe] = {
    "int8": _dynamic,
    "int8-per-channel": partial(_dynamic, per_channel=True),
    "int8-reduced-range": partial(_dynamic, reduced=True),
    "int8-embeddings-4bit": _dynamic_with_small_table,
    "static-minmax": partial(quantize_static_onnx, method="minmax"),
    "static-percentile": partial(quantize_static_onnx, method="percentile"),
    "static-entropy": partial(quantize_static_onnx, method="entropy"),
    "weights-8bit": partial(_weights, bits=8),
    "weights-4bit": partial(_weights, bits=4),
    "fp16": _half,
}


def split_name(variant: str) -> tuple[bool, str]:
    """Whether a variant's name, as ``onnx-fused-int8``, asks for the fused graph; and its recipe, ``""`` for none."""
    fused = variant.startswith("onnx-fused")
    return fused, variant.removeprefix("onnx-fused" if fused else "onnx").removeprefix("-")
