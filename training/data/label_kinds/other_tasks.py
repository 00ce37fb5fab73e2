"""Labels of another task: how they are recognised, so that the error names the task that reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from ....errors import shown
from ..rows import LabelError, is_blank, whole_number
from .answers import is_answer
from .literals import literal
from .tag_scheme import BEGIN, INSIDE, OUTSIDE, is_tag

_Label = TypeVar("_Label")
_TAGS, _ANSWERS, _SETS = "token_classification", "question_answering", "multi_label"
_NUMBERS, _NAMES = "regression", "single_label"
_SPAN_KEYS: Final = {"start", "end"}
_SPAN_LENGTH: Final = 3  # of a span as a list: start, end and label
SEPARATORS: Final = (";", "|", ",")
"""What may stand between several names in a string."""


def naming_other_tasks(
    read: Callable[[Any], _Label], others: tuple[str, ...] = ()
) -> Callable[[object], _Label]:
    """Return a reader of labels whose error names the task that reads a rejected value.

    Tags, spans and answers, and lists of names where ``others`` has their task, are rejected even if the reader would
    accept them, as a list of names or as one long name. A rejected name may be a slip, so that its task is only meant
    if most rows have one.

    Args:
        read: The reader, which raises ``LabelError``.
        others: Further tasks that its errors may name.
    """

    def reader(value: object) -> _Label:
        task = _certain_task(value, others)
        if task is not None:
            raise LabelError(f"label is {shown(value)}, a label of the task {task}", task)
        try:
            return read(value)
        except LabelError as error:
            task = task_of(value, (_TAGS, _ANSWERS, *others))
            if task is None:
                raise
            if task == _NAMES:
                raise LabelError(str(error), task, if_most=True) from None
            raise LabelError(f"{error} (a label of the task {task})", task) from None

    return reader


def task_of(value: object, others: tuple[str, ...]) -> str | None:
    """Return the task among ``others`` that reads a rejected value; None if there is none, or the value is blank."""
    if is_blank(value):
        return None
    parsed = _parsed(value)
    task = _task_of(parsed)
    if task is None and _is_name(parsed):
        task = _NUMBERS if _is_fraction(parsed) else _NAMES
    return task if task in others else None


def _certain_task(value: object, others: tuple[str, ...]) -> str | None:
    """Return the task of a value that cannot be meant as a name, or as names.

    These are answers, spans, tags some of which are ``O``, and a list of names in a string if ``others`` has its task.
    """
    parsed = _parsed(value)
    task = _task_of(parsed)
    if task not in (_TAGS, _SETS) or not isinstance(parsed, list | tuple):
        return task if task == _ANSWERS else None
    if not all(isinstance(each, str) for each in parsed):
        return task if task == _TAGS else None
    if task == _TAGS and OUTSIDE in parsed and len(parsed) > 1:
        return task
    return _SETS if isinstance(value, str) and _SETS in others else None


def _task_of(value: object) -> str | None:
    """Return the task that reads values like this one; None: it may be a name, or no task reads it."""
    if is_answer(value):
        return _ANSWERS
    if not isinstance(value, list | tuple):
        return _NUMBERS if isinstance(value, float) else None
    if not value:
        return None
    is_tagged = all(map(is_tag, value)) and any(
        each == OUTSIDE or str(each).startswith((BEGIN, INSIDE)) for each in value
    )
    if is_tagged or all(map(is_span, value)):
        return _TAGS
    return _SETS if all(isinstance(each, str | int) for each in value) else None


def is_span(value: Any) -> bool:
    """Return whether a value is a span of characters: an object with ``start`` and ``end``, or a list of three."""
    if isinstance(value, Mapping):
        return set(value) >= _SPAN_KEYS
    return (
        isinstance(value, list | tuple)
        and len(value) == _SPAN_LENGTH
        and all(type(whole_number(e)) is int for e in value[:2])
    )


def _is_name(value: object) -> bool:
    """Return whether a value may be the name of a class, not several in a string."""
    return isinstance(value, int) or (isinstance(value, str) and not any(map(value.__contains__, SEPARATORS)))


def _is_fraction(value: object) -> bool:
    try:
        return isinstance(value, str) and not float(value).is_integer()
    except ValueError:
        return False


def _parsed(value: object) -> object:
    """Return what a string holds: a list or an object, or tags divided by blanks; else the value itself."""
    if not isinstance(value, str):
        return value
    if value.lstrip()[:1] in ("[", "{"):
        found = literal(value)
        return value if found is None else found
    parts = value.split() if OUTSIDE in value else []
    return parts if len(parts) > 1 and all(map(is_tag, parts)) else value
