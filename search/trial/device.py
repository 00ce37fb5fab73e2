"""The device of a worker: the one GPU that Ray assigned to it, or none; and cleaning up the GPU after a trial."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from ...storage.environment import environment_set

VISIBLE = "CUDA_VISIBLE_DEVICES"
MPS_DIRECTORY = "CUDA_MPS_PIPE_DIRECTORY"
_GRAPHS = "torch._inductor.cudagraph_trees"  # loaded by the first compiled step


class DeviceError(RuntimeError):
    """A worker cannot use the GPU that was assigned to it; another worker may be able to."""


@contextmanager
def own_device(*, use_gpu: bool, mps: Mapping[str, str] | None = None) -> Iterator[None]:
    """Inside the block, let this process use only the GPU that Ray assigned to it, or none if it has none.

    torch then numbers that GPU 0, and neither transformers nor accelerate finds a second one. A process without a GPU
    opens no CUDA context, which would take some hundred MiB of a GPU that other processes use.

    Args:
        use_gpu: Whether a GPU was assigned.
        mps: Directory of the Multi-Process Service of each node that has one, by the node's id.

    Raises:
        DeviceError: torch cannot use the GPU, or is already using another.
    """
    assigned = assigned_gpus() if use_gpu else []
    own: dict[str, str | None] = {VISIBLE: visible_devices(assigned, use_gpu=use_gpu)}
    if use_gpu and mps and (directory := mps.get(_node())) is not None:
        own[MPS_DIRECTORY] = directory
    with environment_set(own):
        if use_gpu:
            _check(assigned)
        try:
            yield
        finally:
            if use_gpu:
                empty_caches()


def assigned_gpus() -> list[str]:
    """Return the ids of the GPUs that Ray assigned to this worker; an empty list outside of Ray."""
    import ray

    return ray.get_runtime_context().get_accelerator_ids().get("GPU", []) if ray.is_initialized() else []


def _node() -> str:
    import ray

    return ray.get_runtime_context().get_node_id()


def visible_devices(assigned: Sequence[str], *, use_gpu: bool) -> str | None:
    """Return the value of ``CUDA_VISIBLE_DEVICES`` for a process: its GPU, or an empty text without one.

    Args:
        assigned: Ids of the assigned GPUs; if there are none, as outside of Ray, the current value is returned.
        use_gpu: Whether the process uses a GPU.

    Raises:
        DeviceError: Several GPUs are assigned.
    """
    if not use_gpu:
        return ""
    if len(assigned) > 1:
        raise DeviceError(
            f"Ray assigned {len(assigned)} GPUs to one process, which computes on one; request one for each process"
        )
    return assigned[0] if assigned else os.environ.get(VISIBLE)


def _check(assigned: Sequence[str]) -> None:
    """Raise ``DeviceError`` unless torch sees a GPU, and only one if Ray assigned it."""
    import torch

    which = f"GPU {assigned[0]}" if assigned else "a GPU"
    if not torch.cuda.is_available():
        raise DeviceError(
            f"{which} was assigned to this process, but {why_unavailable(torch.__version__, torch.version.cuda)}"
        )
    if assigned and torch.cuda.device_count() > 1:
        raise DeviceError(
            f"{which} was assigned to this process, but PyTorch has already opened {torch.cuda.device_count()} GPUs"
        )


def why_unavailable(version: str, cuda: str | None) -> str:
    """Describe why torch cannot use the GPUs of a node, with the remedy.

    Args:
        version: Version of torch on the node.
        cuda: CUDA version that torch is built for; None if it is built only for CPUs.
    """
    if cuda is None:
        return (
            f"PyTorch {version} there is built for CPUs alone; install its build for CUDA "
            "(https://pytorch.org/get-started/locally)"
        )
    return (
        f"NVIDIA's driver there does not answer PyTorch {version}, built for CUDA {cuda}; check "
        "it with nvidia-smi, and install a driver for that version"
    )


def empty_caches() -> None:
    """Free the memory that an ended trial left in this process on the GPU, and reset its limit and peak.

    It is in PyTorch's cache, and in the pool of the CUDA graphs of a compiled step.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    if _GRAPHS in sys.modules:  # resetting would load it, which takes seconds
        torch._dynamo.reset()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.reset_peak_memory_stats()
