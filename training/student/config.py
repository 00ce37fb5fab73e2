"""The ``student`` section of a job's specification: one of the registered kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import TypeAdapter

from ..section_registry import OneSection
from .kinds.base import STUDENT_KINDS, StudentConfig

__all__ = ["STUDENT", "STUDENT_KINDS", "AnyStudentConfig", "StudentConfig", "job_defaults", "student_config"]

STUDENT: Final[OneSection] = STUDENT_KINDS.field(default="layers", by_own_keys=True)
"""Without ``kind``, a key that only one kind has selects that one."""

AnyStudentConfig = Annotated[StudentConfig, STUDENT]
"""The section of any kind of student."""


def student_config(**values: Any) -> StudentConfig:
    """Return the section of the kind that ``values`` select, some of the teacher's layers by default.

    Example:
        >>> student_config(checkpoint="distilbert-base-uncased").kind
        'checkpoint'

    Raises:
        ValidationError: A key or a value is rejected.
    """
    return TypeAdapter(AnyStudentConfig).validate_python(values)


def job_defaults(student: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return the values of keys of other sections that suit a student's kind, by section.

    Args:
        student: The section, or its values, which select a kind; None selects the default.
    """
    kind = type(student) if isinstance(student, StudentConfig) else STUDENT.selected(student or {})
    return {} if kind is None else kind.job_defaults  # pyright: ignore[reportAttributeAccessIssue]
