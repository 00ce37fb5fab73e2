"""All variants, one file for each kind; importing this package registers them without loading torch or onnx."""

from __future__ import annotations

import difflib

from ....errors import ConfigError, shown
from ..base import VARIANTS, Variant
from . import dynamic, plain, static, torch_int8, weights

__all__ = ["dynamic", "get", "names", "nearest", "plain", "static", "torch_int8", "variants", "weights"]


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
        raise ConfigError(f"export.variants: {shown(name)} given, which is not a variant; {nearest(name)}")
    return VARIANTS[name]


def nearest(name: str) -> str:
    """Return a hint for a name that is not registered: the nearest name, or all accepted names."""
    near = difflib.get_close_matches(name, VARIANTS, 1)
    return f"did you mean {near[0]!r}?" if near else f"accepted: {', '.join(VARIANTS)}"
