"""Messages for the faults of a specification: path, value given, values accepted."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError

from ...errors import shown
from ...training.section_registry import NumberOrSections, OneSection, SectionRegistry, SectionsByName
from .reading import unquoted
from .sections import section_of


def described(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """Return messages for the faults that pydantic found, one per path, with the value given and those accepted.

    Args:
        error: Error from the validation of a section.
        root: Class of that section.
    """
    faults: dict[str, str] = {}
    for item in error.errors(include_url=False):
        keys = _without_tag([str(key) for key in item["loc"]])
        path = ".".join(unquoted(key, 60) for key in keys) or "the specification"
        faults.setdefault(path, f"{path}: {_fault(item, keys, root)}")
    return list(faults.values())


def _fault(item: Any, keys: list[str], root: type[BaseModel]) -> str:
    """Return the message for a fault, without its path."""
    given, context = item.get("input"), item.get("ctx", {})
    if item["type"] == "extra_forbidden":
        at = _section_at(keys[:-1], root)
        if isinstance(at, SectionRegistry) and (owners := at.with_key(keys[-1])):
            kind = at.attribute
            return f"is a key of {kind} {', '.join(owners)} only; remove it, or set {kind} to one of them"
        names = _names_of(at)
        nearest = difflib.get_close_matches(keys[-1], names, 1, 0.5)
        hint = f"known: {', '.join(names)}" if names else "remove it"
        if nearest:
            hint = f"did you mean {nearest[0]!r}?"
        return f"unknown key; {hint}"
    if item["type"] in ("model_type", "model_attributes_type"):
        return f"expected a mapping (given {shown(given)})"
    if item["type"] == "union_tag_invalid":
        known = context["expected_tags"].replace("'", "")
        return f"{shown(context['tag'])} is not known; accepted: {known}"
    if item["type"] == "union_tag_not_found":
        return "give `type`; `distiltune config --schema` lists them"
    if item["type"] == "string_too_short":
        return f"is empty; set a value, or remove the key (given {shown(given)})"
    if item["type"] == "too_short":
        return f"at least {context['min_length']} needed, {context['actual_length']} given"
    if item["type"] == "too_long":
        return f"at most {context['max_length']} accepted, {context['actual_length']} given"
    message = item["msg"].removeprefix("Value error, ")
    value = "" if isinstance(given, dict) or item["type"] == "missing" else f" (given {shown(given)})"
    return f"{message[:1].lower()}{message[1:]}{value}"


def _without_tag(keys: list[str]) -> list[str]:
    """Return a path as it is in the file: pydantic adds the type of a search parameter."""
    return keys[:3] + keys[4:] if keys[:2] == ["search", "space"] else keys


def _section_at(keys: list[str], root: type[BaseModel]) -> Any:
    """Return the class, registry or sections that define the keys at a path, or None if there is no such path."""
    at: Any = root
    for key in keys:
        if isinstance(at, SectionRegistry):  # nested key: use the first section class that has it
            at = next((kind for kind in at if key in kind.model_fields), None)
        if isinstance(at, SectionsByName):
            at = at.sections().get(key)
            continue
        if isinstance(at, NumberOrSections):  # the key is a place in the list
            at = at.section
            continue
        field = at.model_fields.get(key) if at is not None else None
        if field is None:
            return None
        several = OneSection | SectionsByName | NumberOrSections
        kinds = (each for each in field.metadata if isinstance(each, several))
        of_kinds = next(kinds, None)
        at = of_kinds.registry if isinstance(of_kinds, OneSection) else of_kinds or section_of(field)
    return at


def _names_of(at: Any) -> list[str]:
    """Return the keys that a result of ``_section_at`` accepts."""
    if isinstance(at, SectionRegistry):
        return at.all_keys()
    if isinstance(at, SectionsByName):
        return list(at.sections())
    return [] if at is None else list(at.model_fields)
