"""What is done to a plain or fused graph to make each variant of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..config import ExportConfig
from .dynamic import quantize_embeddings, quantize_onnx, quantize_weights, to_half
from .sensitivity import PartError, dynamic_sensitivity
from .static import RangeMethod, quantize_static_onnx

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
    "weights-8bit": partial(_weights, bits=8),
    "weights-4bit": partial(_weights, bits=4),
    "fp16": _half,
}
STATIC_RECIPES: dict[str, RangeMethod] = {
    "static-minmax": "minmax",
    "static-percentile": "percentile",
    "static-entropy": "entropy",
}
_RANKED = {"int8": False, "int8-per-channel": True}  # recipe -> per channel


@dataclass(frozen=True)
class Quantized:
    """What is known of a graph that a recipe made, beside the file.

    Attributes:
        reduce_range: Whether weights were held to 7 bits; None where there are no 8-bit products.
        excluded: Parts of a statically quantized graph that were left in 32 bits.
        sensitivity: What each part loses to 8 bits, the worst first; None where that was not measured.
        logits_error: Of a statically quantized graph, on training texts; see ``sensitivity.logits_error``.
    """

    reduce_range: bool | None = None
    excluded: list[PartError] | None = None
    sensitivity: list[PartError] | None = None
    logits_error: float | None = None


def apply_recipe(variant: str, source: Path, target: Path, rows: Rows, config: ExportConfig) -> Quantized:
    """Make the graph ``target`` of ``source``, and measure how sensitive it is where that is asked for.

    Args:
        variant: Its name, as ``onnx-fused-int8``; one that has a recipe.
        source: The plain graph, or the fused one where ``variant`` asks for it.
        target: The file to write.
        rows: Token ids of training texts.
        config: ``static`` and ``sensitivity`` are read.

    Raises:
        ExportError: The graph cannot be quantized so, or there are no texts where they are needed.
    """
    _, name = split_name(variant)
    if name in STATIC_RECIPES:
        made = quantize_static_onnx(
            source,
            target,
            rows,
            method=STATIC_RECIPES[name],
            max_error=config.static.max_error,
            max_excluded=config.static.max_excluded,
            rank=config.sensitivity,
        )
        return Quantized(made.reduce_range, made.excluded, made.ranking, made.error)
    reduce_range = RECIPES[name](source, target, rows)
    if not _is_ranked(variant, config):
        return Quantized(reduce_range)
    ranking = dynamic_sensitivity(source, rows, per_channel=_RANKED[name])
    return Quantized(reduce_range, sensitivity=ranking)


def needs_texts(variant: str, config: ExportConfig) -> bool:
    """Whether a variant is made with training texts."""
    return split_name(variant)[1] in STATIC_RECIPES or _is_ranked(variant, config)


def _is_ranked(variant: str, config: ExportConfig) -> bool:
    """Whether a dynamic variant's sensitivity is measured: of plain graphs only, whose nodes make up the parts."""
    fused, recipe = split_name(variant)
    return config.sensitivity and recipe in _RANKED and not fused


def split_name(variant: str) -> tuple[bool, str]:
    """Whether a variant's name, as ``onnx-fused-int8``, asks for the fused graph; and its recipe, ``""`` for none."""
    fused = variant.startswith("onnx-fused")
    return fused, variant.removeprefix("onnx-fused" if fused else "onnx").removeprefix("-")
