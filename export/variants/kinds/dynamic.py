"""Dynamic 8-bit quantization: int8 weights, and activations quantized by the range of each batch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from ..base import INT4_OPSET, Quantized, Source, Variant, VariantInputs, fused, register


def _int8(
    source: Path,
    target: Path,
    inputs: VariantInputs,
    *,
    per_channel: bool = False,
    reduced: bool | None = None,
) -> Quantized:
    from ..dynamic import quantize_onnx
    from ..sensitivity import dynamic_sensitivity

    reduce_range = quantize_onnx(source, target, per_channel=per_channel, reduce_range=reduced)
    if not inputs.measure_sensitivity:
        return Quantized(reduce_range)
    ranking = dynamic_sensitivity(source, inputs.rows, per_channel=per_channel)
    return Quantized(reduce_range, sensitivity=ranking)


def _with_small_table(source: Path, target: Path, inputs: VariantInputs) -> Quantized:
    from ..small_table import with_small_table

    return with_small_table(source, target, partial(_int8, inputs=inputs))


INT8 = Variant(
    "onnx-int8",
    "dynamic int8, one scale per weight matrix",
    Source.PLAIN_GRAPH,
    _int8,
    weight_bits=8,
    activation_bits=8,
    logits_depend_on_batch=True,
    tolerance=0.2,
    has_sensitivity=True,
)
PER_CHANNEL = replace(
    INT8,
    name="onnx-int8-per-channel",
    description="dynamic int8, one scale per column",
    make=partial(_int8, per_channel=True),
)
REDUCED_RANGE = replace(
    INT8,
    name="onnx-int8-reduced-range",
    description="dynamic int8, weights in 7 bits for processors without VNNI",
    make=partial(_int8, reduced=True),
    has_sensitivity=False,
)
SMALL_TABLE = replace(
    INT8,
    name="onnx-int8-embeddings-4bit",
    description="dynamic int8, embeddings in 4 bits",
    make=_with_small_table,
    tolerance=1.0,
    min_opset=INT4_OPSET,
    has_sensitivity=False,
)

register(INT8, PER_CHANNEL, REDUCED_RANGE, SMALL_TABLE)
register(
    fused(INT8, "onnx-fused-int8"),
    fused(PER_CHANNEL, "onnx-fused-int8-per-channel"),
    fused(REDUCED_RANGE, "onnx-fused-int8-reduced-range"),
    fused(SMALL_TABLE, "onnx-fused-int8-embeddings-4bit"),
)
