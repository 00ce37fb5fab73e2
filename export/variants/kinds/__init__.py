"""All variants, one file for each kind; importing this package registers them without loading torch or onnx."""

from __future__ import annotations

from collections.abc import Iterable

from ....errors import ConfigError, shown
from ....training.registry import nearest_name
from ..base import VARIANTS, Source, Variant
from . import dynamic, plain, static, tensorrt_fp16, tensorrt_int8, torch_int8, weights

__all__ = [
    "dynamic",
    "get",
    "inapplicable",
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


def inapplicable(names: Iterable[str], model_type: str) -> dict[str, str]:
    """Return those of some variants that models of a type cannot have, each with the reason.

    Args:
        names: Names of registered variants.
        model_type: Model type of the student, as in its ``config.json``.
    """
    why = _why_not_fused(model_type)
    if why is None:
        return {}
    return {name: why for name in names if get(name).source is Source.FUSED_GRAPH}


def _why_not_fused(model_type: str) -> str | None:
    from ....training.models.attention_free import has_no_attention
    from ....training.models.families import find_family
    from ...onnx.graphs import find_graph

    if find_graph(model_type) is not None or has_no_attention(model_type):
        return f"{model_type} has no attention to fuse"
    family = find_family(model_type)
    why = None if family is None else family.why_not("fused_attention")
    return None if why is None else f"the attention of {model_type} cannot be fused: {why}"
