"""Variants without quantization: the student's graph in 32- and in 16-bit floats."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..base import Quantized, Source, Variant, VariantInputs, fused, register


def _copy(source: Path, target: Path, _: VariantInputs) -> Quantized:
    shutil.copyfile(source, target)
    return Quantized()


def _half(source: Path, target: Path, _: VariantInputs) -> Quantized:
    from ..dynamic import to_half

    to_half(source, target)
    return Quantized()


PLAIN = Variant("onnx", "32-bit floats", Source.PLAIN_GRAPH, _copy)
"""The graph that other variants are made from."""

FP16 = Variant(
    "onnx-fp16",
    "16-bit floats; a CPU computes in 32 bits",
    Source.PLAIN_GRAPH,
    _half,
    weight_bits=16,
    activation_bits=16,
    tolerance=0.05,
)

register(PLAIN, FP16, fused(PLAIN, "onnx-fused"), fused(FP16, "onnx-fused-fp16"))
