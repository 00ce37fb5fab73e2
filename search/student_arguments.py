"""The searched arguments that define a student: its kind, and the keys that each kind lets a search vary."""

from __future__ import annotations

from collections.abc import Mapping

from ..training.student.kinds.base import STUDENT_KINDS
from .parameters import Parameter, accepted_values

_PREFIX = "student."
STUDENT_KIND = f"{_PREFIX}kind"


def student_arguments() -> tuple[str, ...]:
    """Return every argument that can define a student, in their order in a student's name."""
    keys = dict.fromkeys(key for kind in STUDENT_KINDS for key in kind.searched_keys)
    return (STUDENT_KIND, *(f"{_PREFIX}{key}" for key in keys))


def is_student_argument(name: str) -> bool:
    """Return whether an argument defines the student of a trial."""
    return name.startswith(_PREFIX)


def key_of(name: str) -> str:
    """Return the key of the section ``student`` that an argument sets."""
    return name.removeprefix(_PREFIX)


def kinds_with(name: str) -> list[str]:
    """Return the kinds of students that have a given searched argument."""
    return [STUDENT_KINDS.name_of(kind) for kind in STUDENT_KINDS if key_of(name) in kind.searched_keys]


def applies_to(parameter: Parameter, kind: str) -> bool:
    """Return whether an argument of the space may have a value in a trial with this kind of student."""
    return kind in accepted_values(parameter.when.get(STUDENT_KIND, kind))


def implied_condition(name: str, space: Mapping[str, Parameter]) -> dict[str, list[str]]:
    """Return the condition that a searched kind implies for a key that only some kinds have; empty if there is none.

    A given condition on nothing but the kind narrows the implied one.
    """
    if STUDENT_KIND not in space or name == STUDENT_KIND or not is_student_argument(name):
        return {}
    given = space[name].when
    if given.keys() - {STUDENT_KIND}:
        return {}
    allowed = accepted_values(given[STUDENT_KIND]) if given else space[STUDENT_KIND].end_values()
    searched = space[STUDENT_KIND].end_values()
    kinds = [each for each in kinds_with(name) if each in searched and each in allowed]
    return {STUDENT_KIND: kinds} if kinds else {}


def with_implied_conditions(space: dict[str, Parameter]) -> dict[str, Parameter]:
    """Return a space in which the keys of a kind of student apply only to trials with that kind."""
    implied = {name: implied_condition(name, space) for name in space}
    return {
        name: each.model_copy(update={"when": implied[name]}) if implied[name] else each
        for name, each in space.items()
    }
