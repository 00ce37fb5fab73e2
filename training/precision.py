"""The precision and the device that a model is evaluated in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def without_mixed_precision(model: nn.Module) -> Iterator[None]:
    """Run ``model`` inside as it is saved, and as it was before afterwards.

    Training in mixed precision puts autocast round the model's own forward (accelerate's ``prepare_model``)
    and leaves it there. What is measured through it is not what a reader of the checkpoint gets.
    """
    wrapped, own = model.__dict__.get("forward"), model.__dict__.get("_original_forward")
    if wrapped is None or own is None:
        yield
        return
    model.forward = own
    try:
        yield
    finally:
        model.forward = wrapped


def evaluation_device(use_gpu: bool | None) -> torch.device:
    """CUDA if ``use_gpu`` and there is one, else the CPU; ``None`` means wherever there is one."""
    wanted = use_gpu is None or use_gpu
    return torch.device("cuda" if wanted and torch.cuda.is_available() else "cpu")
