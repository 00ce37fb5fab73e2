"""The ``student`` section of a job's specification: one of the registered kinds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import TypeAdapter, ValidationError

from ...errors import ConfigError
from ..section_registry import OneSection
from .kinds.base import STUDENT_KINDS, StudentConfig

__all__ = [
    "STUDENT",
    "STUDENT_KINDS",
    "AnyStudentConfig",
    "StudentConfig",
    "as_kind",
    "job_defaults",
    "student_config",
    "student_section",
]

STUDENT: Final[OneSection] = STUDENT_KINDS.field(default="layers", by_own_keys=True)
"""Without ``kind``, a key that only one kind has selects that kind."""

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


def as_kind(config: StudentConfig, kind: str) -> StudentConfig:
    """Return a section as one of another kind: with the given keys that this kind has too, and its own defaults.

    A value that only the section's own kind accepts, such as a way of pooling, is left out as well.

    Raises:
        ConfigError: The kind is not registered, or needs a key that the section does not have.
    """
    if kind == config.kind:
        return config
    if kind not in STUDENT_KINDS:
        raise ConfigError(f"student.kind: {kind!r} is not known; accepted: {', '.join(STUDENT_KINDS.names)}")
    section = STUDENT_KINDS[kind]
    given = {
        name: getattr(config, name)
        for name in section.model_fields
        if name != STUDENT_KINDS.attribute and (name in config.model_fields_set or name == "seed")
    }
    try:
        return section(**given)
    except ValidationError as error:
        rejected = {str(each["loc"][0]) for each in error.errors() if each["loc"]}
    try:
        return section(**{name: value for name, value in given.items() if name not in rejected})
    except ValidationError as error:
        keys = ", ".join(f"student.{'.'.join(map(str, each['loc']))}" for each in error.errors())
        raise ConfigError(
            f"student.kind: a student of kind {kind!r} needs {keys}, which the section `student` of kind "
            f"{config.kind!r} does not have; describe a student of kind {kind!r} there, or search other kinds"
        ) from None


def student_section(config: StudentConfig, values: Mapping[str, Any], teacher_dir: Path) -> StudentConfig:
    """Return the section of a trial's student.

    Args:
        config: The section ``student``.
        values: The trial's values of searched keys, and its ``kind`` if that is searched.
        teacher_dir: The prepared teacher.

    Raises:
        ModelError: The teacher has no such student.
    """
    own = as_kind(config, values.get(STUDENT_KINDS.attribute, config.kind))
    return own.with_searched(
        {key: value for key, value in values.items() if key != STUDENT_KINDS.attribute}, teacher_dir
    )
