"""All targets, one file each; importing this package registers them without loading their runtimes."""

from __future__ import annotations

from typing import NamedTuple

from ....errors import InputError, shown
from . import baseline, cuda, known_answers, onnx, pytorch, pytorch_int8, reference, tensorrt, torch_cuda
from .base import CPU, TARGETS, Target

__all__ = [
    "CPU",
    "TARGETS",
    "Target",
    "baseline",
    "cuda",
    "get",
    "known_answers",
    "names",
    "onnx",
    "places",
    "pytorch",
    "pytorch_int8",
    "reference",
    "tensorrt",
    "torch_cuda",
]


class Place(NamedTuple):
    """An entry of ``benchmark.targets``."""

    name: str
    description: str


def names() -> list[str]:
    """Return the name of every registered target."""
    return list(TARGETS)


def places() -> list[Place]:
    """Return the accepted entries of ``benchmark.targets``: the CPU, and each target that needs a GPU."""
    on_gpu = [Place(each.name, each.description) for each in TARGETS.values() if each.needs_gpu]
    return [Place(CPU, "every model, on the CPU"), *on_gpu]


def get(name: str) -> Target:
    """Return the target with the given name.

    Raises:
        InputError: There is no such target.
    """
    if name not in TARGETS:
        raise InputError(
            f"kind of a measurement: {shown(name)} given, which is not a target; accepted: {', '.join(TARGETS)}"
        )
    return TARGETS[name]
