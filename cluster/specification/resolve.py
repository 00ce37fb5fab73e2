"""Resolve the values of a specification: read a file or preset, apply overrides, fall back to another preset."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ...training.checkpoints.offline import INSTALL_OFFLINE, is_missing
from ...training.data.sources.base import DATA_SOURCES
from ...training.student.config import STUDENT, STUDENT_KINDS, job_defaults
from ...training.teacher.config import TEACHER_KINDS
from .preset_files import preset_names
from .reading import apply_overrides, read_specification
from .relative import resolve_paths

logger = logging.getLogger(__name__)

# The fallback of a preset whose encoder is not installed.
_WITHOUT_ENCODER = {"quickstart": "quickstart-scratch"}


def read_with_overrides(source: str, overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return a specification's values and the faults of its overrides.

    A preset whose encoder is not installed is replaced by its fallback, with a warning, unless an override
    requests fine-tuning: then preparing the teacher fails with the command that installs the encoder.
    """
    values = read_specification(source)
    if source in preset_names():
        _clear_replaced_sections(values, overrides)
    else:
        resolve_paths(values, Path(source).parent)
    faults = apply_overrides(values, overrides)
    fallback, encoder = _WITHOUT_ENCODER.get(source), _encoder(values)
    asked = any(override.strip().startswith(("teacher.fine_tune", "teacher=")) for override in overrides)
    if fallback is None or asked or not is_missing(encoder):
        return values, faults
    logger.warning(
        "%s: the pretrained encoder %s is not installed, so the teacher is a small BERT trained from scratch, "
        "which is far less accurate (preset %s); to install it, run: %s",
        source,
        encoder,
        fallback,
        INSTALL_OFFLINE,
    )
    return read_with_overrides(fallback, overrides)


def _clear_replaced_sections(values: dict[str, Any], overrides: list[str]) -> None:
    """Clear the section data, teacher or student of a preset if the overrides describe another kind of it.

    If the student is cleared, so are the preset's values of other keys for which the new kind has defaults.
    """
    source = DATA_SOURCES.named_by(_given(overrides, "data"))
    if source is not None and source != (values.get("data") or {}).get("source"):
        values["data"] = {}
    asked = _given(overrides, "teacher").keys() & set(TEACHER_KINDS)
    is_list = _given(overrides, "teacher").get("ensemble", "").startswith("[")
    if is_list or (asked and not asked & (values.get("teacher") or {}).keys()):
        values["teacher"] = {}
    kind = STUDENT_KINDS.named_by(_given(overrides, "student"))
    if kind not in (None, STUDENT.name_in(values.get("student") or {})):
        values["student"] = {}
        for section, defaults in job_defaults({"kind": kind}).items():
            kept = values.get(section) or {}
            values[section] = {key: value for key, value in kept.items() if key not in defaults}


def _given(overrides: list[str], section: str) -> dict[str, str]:
    """Return the text of the last override of each key of a section, except for overrides with null."""
    found = {}
    for override in overrides:
        path, _, value = override.partition("=")
        keys = [key.strip() for key in path.split(".")]
        if keys[0] == section and len(keys) > 1 and value.strip() not in ("", "~", "null"):
            found[keys[1]] = value.strip()
    return found


def _encoder(values: dict[str, Any]) -> Any:
    """Return the checkpoint that a specification's teacher is fine-tuned from, or None."""
    at: Any = values
    for key in ("teacher", "fine_tune", "checkpoint"):
        at = at.get(key) if isinstance(at, dict) else None
    return at
