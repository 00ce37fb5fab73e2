"""What surrounds a model while it computes: threads, device, precision, and silence of the libraries below."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from huggingface_hub.utils import logging as hub_logging
from torch import nn
from transformers.utils import logging as transformers_logging


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, both libraries log errors only and draw no bars; their settings come back afterwards."""
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
    """Compute with ``num_threads`` inside, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
