"""All targets, one file each; importing this package registers them without loading their runtimes."""

from __future__ import annotations

from ....errors import InputError, shown
from . import baseline, known_answers, onnx, pytorch, pytorch_int8, reference
from .base import TARGETS, Target

__all__ = ["baseline", "get", "known_answers", "names", "onnx", "pytorch", "pytorch_int8", "reference"]


def names() -> list[str]:
    """Return the name of every registered target."""
    return list(TARGETS)


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
