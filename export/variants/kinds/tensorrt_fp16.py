"""16-bit floats for TensorRT, which follows the types of the graph: operations that need 32 bits keep them."""

from __future__ import annotations

from pathlib import Path

from ..base import Quantized, Source, Variant, VariantInputs, register

# These sum over a whole row, in which 16 bits would lose the small terms.
_IN_32_BITS = ("LayerNormalization", "Softmax", "ReduceMean")


def _make(source: Path, target: Path, _: VariantInputs) -> Quantized:
    from ..dynamic import to_half

    to_half(source, target, keep=_IN_32_BITS)
    return Quantized()


register(
    Variant(
        "onnx-tensorrt-fp16",
        "16-bit floats for TensorRT, normalization and softmax in 32 bits",
        Source.PLAIN_GRAPH,
        _make,
        weight_bits=16,
        activation_bits=16,
        tolerance=0.05,
        gpu_targets=("tensorrt",),
    )
)
