"""Static 8-bit quantization: int8 weights, and activations with ranges calibrated on training texts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from ....training.section import PositiveAmount, Section
from ..base import Quantized, Source, Variant, VariantInputs, register

if TYPE_CHECKING:
    from ..static import RangeMethod


class StaticConfig(Section):
    """Which parts of a statically quantized graph stay in 32 bits."""

    max_error: PositiveAmount = Field(
        default=0.005,
        description="Mean squared error of the logits on training texts, as a share of their variance, above which "
        "the most sensitive parts stay in 32 bits.",
    )
    max_excluded: int = Field(
        default=2,
        ge=0,
        le=100_000,
        description="Maximum number of parts that stay in 32 bits (a layer's query, key and value; a layer's "
        "feed-forward out; …).",
    )


def _static(source: Path, target: Path, inputs: VariantInputs, *, method: RangeMethod) -> Quantized:
    from ..static import quantize_static_onnx

    config = inputs.section(StaticConfig)
    made = quantize_static_onnx(
        source,
        target,
        inputs.rows,
        method=method,
        max_error=config.max_error,
        max_excluded=config.max_excluded,
        rank=inputs.measure_sensitivity,
    )
    return Quantized(made.reduce_range, made.excluded, made.ranking, made.error)


def _by(method: RangeMethod, description: str) -> Variant:
    return Variant(
        f"onnx-static-{method}",
        f"static int8, {description}",
        Source.PLAIN_GRAPH,
        partial(_static, method=method),
        weight_bits=8,
        activation_bits=8,
        tolerance=1.0,
        needs_texts=True,
        is_timed_untrained=False,  # parts with too large an error stay in 32 bits
        has_sensitivity=True,
    )


register(
    _by("minmax", "activations by their whole range"),
    _by("percentile", "activations without the 0.001 % farthest out"),
    _by("entropy", "activations by the range that changes their distribution least"),
)
