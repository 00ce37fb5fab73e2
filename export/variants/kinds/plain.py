"""Variants without quantization: the student's graph in 32- and in 16-bit floats."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from ..base import Quantized, Source, Variant, VariantInputs, fused, register


def _copy(source: Path, target: Path, _: VariantInputs) -> Quantized:
    shutil.copyfile(source, target)
    return Quantized()


def _half(source: Path, target: Path, _: VariantInputs) -> Quantized:
    from ..dynamic import to_half

    to_half(source, target)
    return Quantized()


PLAIN = Variant("onnx", "32-bit floats", Source.PLAIN_GRAPH, _copy, gpu_targets=("cuda", "tensorrt"))
"""The graph that other variants are made from."""

FP16 = Variant(
    "onnx-fp16",
    "16-bit floats; a CPU computes in 32 bits",
    Source.PLAIN_GRAPH,
    _half,
    weight_bits=16,
    activation_bits=16,
    tolerance=0.05,
    gpu_targets=("cuda",),
)

_FUSED = ((PLAIN, "onnx-fused"), (FP16, "onnx-fused-fp16"))

register(PLAIN, FP16)
# TensorRT supports none of the nodes that fusion creates.
register(*(replace(fused(each, name), gpu_targets=("cuda",)) for each, name in _FUSED))
