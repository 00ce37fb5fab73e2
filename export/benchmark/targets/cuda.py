"""Target of ONNX graphs on an NVIDIA GPU by ONNX Runtime's CUDA provider, with IO binding, and with CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .base import Opened, OpenOptions, Target, register
from .onnx import open_classifier


def _missing() -> str | None:
    from ...runtime.session.providers import CUDA, missing_provider

    return missing_provider(CUDA)


def _open(options: OpenOptions) -> Opened:
    from ...runtime.session.providers import CUDA

    def with_cuda_graphs() -> Callable[..., Any]:
        return open_classifier(options, providers=[CUDA], cuda_graphs=True).pipeline

    opened = open_classifier(options, providers=[CUDA], io_binding=True)
    return replace(opened, with_cuda_graphs=with_cuda_graphs)


register(
    Target(
        "cuda",
        "ONNX Runtime on an NVIDIA GPU, by its CUDA provider",
        _open,
        is_gated=True,
        can_be_sealed=True,
        is_onnx=True,
        color="#e45756",
        measures="onnx",
        missing=_missing,
    )
)
