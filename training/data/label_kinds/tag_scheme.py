"""Tags of tokens: IOB2, which models are trained on, and IOB1, BIOES and BILOU, which are converted to it."""

from __future__ import annotations

from collections.abc import Sequence

from ....errors import shown
from ..rows import LabelError, fault_of, is_blank, is_name

OUTSIDE, BEGIN, INSIDE = "O", "B-", "I-"

# BIOES, also called BILOU, has further prefixes: for the last word of an entity, and for an entity of one word.
_IOB2 = {"B": "B", "I": "I", "E": "I", "L": "I", "S": "B", "U": "B"}


def is_tag(value: object) -> bool:
    """Return whether a value is a tag of IOB2, IOB1, BIOES or BILOU."""
    if not isinstance(value, str):
        return False
    prefix, dash, kind = value.partition("-")
    return value == OUTSIDE or (bool(dash) and prefix in _IOB2 and is_name(kind))


def tag_names(types: Sequence[str]) -> list[str]:
    """Return the names of a model's outputs for entity types: ``O``, then ``B-`` and ``I-`` of each type."""
    return [OUTSIDE, *(f"{prefix}{name}" for name in types for prefix in (BEGIN, INSIDE))]


def entity_types(names: Sequence[str]) -> list[str]:
    """Return the entity types of outputs named by ``tag_names``."""
    return [name.removeprefix(BEGIN) for name in names[1::2]]


def parse_tag(tag: object, number: int) -> tuple[str, str | None]:
    """Return ``B`` or ``I`` and the type of a tag; the type is None outside of entities."""
    if tag == OUTSIDE:
        return OUTSIDE, None
    if isinstance(tag, str) and is_tag(tag):
        prefix, _, kind = tag.partition("-")
        return _IOB2[prefix], kind
    what = fault_of(tag) if is_blank(tag) else f"is {shown(tag)}, not {OUTSIDE}, {BEGIN}TYPE or {INSIDE}TYPE"
    raise LabelError(f"tag {number} {what}")
