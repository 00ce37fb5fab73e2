"""The licences of an artifact's sources, and what they mean for its model card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

UNKNOWN = "unknown"
LICENCE_SEPARATOR = ", "
"""Separator of the licences of several teachers."""
_NON_COMMERCIAL = re.compile(
    r"(^|[^a-z])(nc|non[ _-]?commercial|research[ _-]?only)($|[^a-z])", re.IGNORECASE
)


def is_non_commercial(licence: str | None) -> bool:
    """Return whether a licence excludes commercial use according to its name, such as ``cc-by-nc-4.0``."""
    return licence is not None and _NON_COMMERCIAL.search(licence) is not None


def licence_of_artifact(licences: Mapping[str, Any]) -> str:
    """Return the licence that a model card states, for the licences of ``teacher`` and ``data``.

    It is that of the teacher, whose weights the artifact is made from; ``other`` if only the data's excludes commercial
    use, or if several teachers have different ones; ``unknown`` if the teacher's is not known.
    """
    teacher, data = licences.get("teacher"), licences.get("data")
    if is_non_commercial(data) and not is_non_commercial(teacher):
        return "other"
    if teacher is not None and LICENCE_SEPARATOR in teacher:
        return "other"
    return teacher or UNKNOWN
