"""Weight-only quantization to 4 or 8 bits, in blocks with scales; products take floats."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..base import INT4_OPSET, Quantized, Source, Variant, VariantInputs, fused, register


def _weights_8bit(source: Path, target: Path, _: VariantInputs) -> Quantized:
    from ..dynamic import quantize_onnx, quantize_weights

    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        half_way = Path(folder) / target.name
        quantize_weights(source, half_way, bits=8)
        quantize_onnx(half_way, target, operators=["Gather"])
    return Quantized()


def _weights_4bit(source: Path, target: Path, _: VariantInputs) -> Quantized:
    from ..dynamic import quantize_embeddings, quantize_weights

    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        half_way = Path(folder) / target.name
        quantize_embeddings(source, half_way)
        quantize_weights(half_way, target, bits=4)
    return Quantized()


WEIGHTS_8BIT = Variant(
    "onnx-weights-8bit",
    "weights and embeddings in 8 bits, floating-point products",
    Source.PLAIN_GRAPH,
    _weights_8bit,
    weight_bits=8,
    tolerance=0.2,
)
WEIGHTS_4BIT = Variant(
    "onnx-weights-4bit",
    "weights and embeddings in 4 bits, floating-point products",
    Source.PLAIN_GRAPH,
    _weights_4bit,
    weight_bits=4,
    tolerance=1.5,
    min_opset=INT4_OPSET,
)

register(WEIGHTS_8BIT, WEIGHTS_4BIT)
register(fused(WEIGHTS_8BIT, "onnx-fused-weights-8bit"), fused(WEIGHTS_4BIT, "onnx-fused-weights-4bit"))
