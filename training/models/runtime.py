"""Runtime settings of a model: threads, device, precision, and the libraries' logging."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from huggingface_hub.utils import logging as hub_logging
from torch import nn
from transformers.utils import logging as transformers_logging

from ...errors import InputError


@contextmanager
def quiet() -> Iterator[None]:
    """Make transformers and huggingface_hub log only errors and show no progress bars; restore both on exit."""
    hub_level, level = hub_logging.get_verbosity(), transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    hub_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        hub_logging.set_verbosity(hub_level)
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def intra_op_threads(num_threads: int) -> Iterator[None]:
    """Compute with ``num_threads`` threads; restore the previous number on exit."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def float32_products(
    *, tf32: bool | None, device: torch.device, given: str = "tf32 is True"
) -> Iterator[None]:
    """Multiply matrices of float32 in TF32, or exactly, inside the block; restore the previous setting on exit.

    Args:
        tf32: Whether to use TF32, which keeps 10 bits of each factor's fraction; None changes nothing.
        device: Device of the matrices.
        given: What requests TF32, for the message.

    Raises:
        InputError: The device has no TF32.
    """
    if tf32 is None:
        yield
        return
    if tf32 and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0)):
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
        raise InputError(
            f"{given}, but {name} has no TF32 (NVIDIA GPUs of compute capability 8.0 or more have it); set another "
            "value"
        )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def without_mixed_precision(model: nn.Module) -> Iterator[None]:
    """Run ``model`` without autocast, like a model loaded from its checkpoint; restore autocast on exit.

    Training in mixed precision wraps the model's own forward in autocast (accelerate's ``prepare_model``)
    permanently, so measurements through it would differ from those of the loaded checkpoint.
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


def end_mixed_precision(model: nn.Module) -> None:
    """Remove the autocast that a training in mixed precision leaves around a model, so that another can begin."""
    if "_original_forward" in vars(model):
        vars(model).pop("_original_forward")
        vars(model).pop("forward")


def evaluation_device(use_gpu: bool | None) -> torch.device:
    """Return CUDA's current device if available and ``use_gpu`` is not False, else the CPU."""
    wanted = use_gpu is None or use_gpu
    return torch.device("cuda" if wanted and torch.cuda.is_available() else "cpu")
