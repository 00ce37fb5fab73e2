"""All variants, one file for each kind; importing this package registers them without loading torch or onnx."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ....errors import ConfigError, shown
from ....training.registry import nearest_name
from ..base import VARIANTS, Variant
from . import dynamic, integer, plain, static, tensorrt_fp16, tensorrt_int8, torch_int8, weights

__all__ = [
    "dynamic",
    "get",
    "inapplicable",
    "integer",
    "names",
    "plain",
    "static",
    "tensorrt_fp16",
    "tensorrt_int8",
    "torch_int8",
    "variants",
    "weights",
]


def variants() -> list[Variant]:
    """Return every registered variant."""
    return list(VARIANTS.values())


def names() -> list[str]:
    """Return the name of every registered variant."""
    return list(VARIANTS)


def get(name: str) -> Variant:
    """Return the variant with the given name.

    Raises:
        ConfigError: There is no such variant; the message suggests the nearest name.
    """
    if name not in VARIANTS:
        raise ConfigError(
            f"export.variants: {shown(name)} given, which is not a variant; {nearest_name(name, VARIANTS)}"
        )
    return VARIANTS[name]


def inapplicable(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, str]:
    """Return those of some variants that a student cannot have, each with the reason.

    Args:
        names: Names of registered variants.
        config: Content of the student's ``config.json``.
    """
    reasons = {name: get(name).why_not(config) for name in names}
    return {name: reason for name, reason in reasons.items() if reason is not None}
