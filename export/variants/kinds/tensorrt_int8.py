"""Static int8 as TensorRT requires it: symmetric, so that every zero point is 0."""

from __future__ import annotations

from pathlib import Path

from ..base import Quantized, Source, Variant, VariantInputs, register


def _make(source: Path, target: Path, inputs: VariantInputs) -> Quantized:
    from ..static import quantize_symmetric

    quantize_symmetric(source, target, inputs.rows)
    return Quantized(reduce_range=False)


register(
    Variant(
        "onnx-tensorrt-int8",
        "static int8 for TensorRT: symmetric activations, one scale per column",
        Source.PLAIN_GRAPH,
        _make,
        weight_bits=8,
        activation_bits=8,
        tolerance=1.0,
        needs_texts=True,
        is_timed_untrained=False,  # made for another device
        gpu_targets=("tensorrt",),
    )
)
