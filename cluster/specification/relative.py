"""Resolve the relative paths in a job's file against the file's directory, before anything reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...storage.filesystems import is_url
from ...training.checkpoints.offline import OFFLINE_PREFIX
from ...training.data.sources.base import DATA_SOURCES
from ...training.student.config import STUDENT

# Keys that name a file, and keys that name either a directory or a model on the hub; then those of a teacher.
_FILES = (("data", "unlabelled", "path"),)
_CHECKPOINTS = (("benchmark", "model2vec"),)
_FILES_OF_TEACHER = (("logits",), ("logits", "path"))
_CHECKPOINTS_OF_TEACHER = (("checkpoint",), ("fine_tune", "checkpoint"))


def resolve_paths(values: dict[str, Any], directory: Path) -> None:
    """Resolve every relative path in the values of a job's file against the file's directory, in place.

    ``storage.path`` is left unchanged, since it is relative to the working directory; so are URLs, ``~``, and
    checkpoint names that are not a directory there, since they are on the hub.
    """
    if directory == Path():
        return

    def file(name: str) -> str:
        return str(directory / name)

    def checkpoint(name: str) -> str:
        return file(name) if _is_directory(directory / name) else name

    for keys in (*_data_files(), *_FILES):
        _replace(values, keys, file)
    for keys in (*_CHECKPOINTS, *_student_checkpoints(values)):
        _replace(values, keys, checkpoint)
    for teacher in _teachers(values):
        for keys in _FILES_OF_TEACHER:
            _replace(teacher, keys, file)
        for keys in _CHECKPOINTS_OF_TEACHER:
            _replace(teacher, keys, checkpoint)


def _data_files() -> Iterator[tuple[str, ...]]:
    for source in DATA_SOURCES:
        yield from (("data", key) for key in (*source.local_files, *source.optional_files))


def _teachers(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the section ``teacher``, and those of the members of an ensemble."""
    teacher = values.get("teacher")
    members = teacher.get("ensemble") if isinstance(teacher, dict) else None
    yield from (
        each for each in (teacher, *(members if isinstance(members, list) else [])) if isinstance(each, dict)
    )


def _student_checkpoints(values: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    kind: Any = STUDENT.selected(values.get("student"))
    if kind is not None:
        yield from (("student", *path) for path in kind.checkpoint_keys)


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # an invalid path; its own check reports it
        return False


def _replace(values: dict[str, Any], keys: tuple[str, ...], resolved: Any) -> None:
    at: Any = values
    for key in keys[:-1]:
        at = at.get(key) if isinstance(at, dict) else None
    name = at.get(keys[-1]) if isinstance(at, dict) else None
    fixed = isinstance(name, str) and (
        Path(name).is_absolute() or is_url(name) or name.startswith(("~", OFFLINE_PREFIX)) or not name.strip()
    )
    if isinstance(name, str) and not fixed:
        at[keys[-1]] = resolved(name)
