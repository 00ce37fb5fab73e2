"""The students that a search tries: their names, their arguments, and which of them violate a constraint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import ConfigError
from ...training.student.config import StudentConfig, as_kind
from ..config import Constraint, SearchConfig
from ..parameters import Choice, Parameter, as_category
from ..student_arguments import STUDENT_KIND, applies_to, is_student_argument, key_of, student_arguments
from .space import by_condition

# Metrics that are known before training, and the same for all trials of a student, with their modes.
STUDENT_METRICS = {"latency_ms": "min", "size_mb": "min", "num_parameters": "min"}
MEASURED_METRICS = ("latency_ms", "size_mb")
"""Those of them that are measured on the exported student."""
# Name of the student if the space has no student arguments.
ONLY_STUDENT = "student"


@dataclass(frozen=True)
class Student:
    """A checkpoint that trials start from.

    Attributes:
        key: Key of the published folder.
        metrics: Metrics that are known before training and the same for all its trials, such as ``latency_ms``; empty
            if all trials of the search have the same student.
    """

    key: str
    metrics: dict[str, float] = field(default_factory=dict)


def student_name(arguments: Mapping[str, Any]) -> str:
    """Return the name of a trial's student, such as ``student.layers=[0, 5]``; ``student`` if none is searched."""
    order = student_arguments()
    names = sorted(
        filter(is_student_argument, arguments),
        key=lambda name: (order.index(name) if name in order else len(order), name),
    )
    return "; ".join(f"{name}={as_category(arguments[name])}" for name in names) or ONLY_STUDENT


def is_measured(config: SearchConfig) -> bool:
    """Return whether a search selects students by measurements of their exported graphs."""
    named = (*config.all_objectives, *config.constraints)
    return any(each.metric in MEASURED_METRICS for each in named)


def shared_metrics(arguments: Mapping[str, Any], students: Mapping[str, Student]) -> dict[str, float]:
    """Return the metrics that are known before training for the student of these arguments."""
    return students[student_name(arguments)].metrics


def student_names(config: SearchConfig) -> dict[str, dict[str, Any]]:
    """Return the searched arguments that define each student of the search, by the student's name."""
    every: list[dict[str, Any]] = [{}]
    for name in filter(is_student_argument, by_condition(config.space)):
        parameter = config.space[name]
        every = [
            each
            for arguments in every
            for each in (
                [{**arguments, name: value} for value in parameter.all_values()]
                if parameter.applies(arguments)
                else [arguments]
            )
        ]
    return {student_name(each): each for each in every}


def student_keys(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the arguments that define a student, by key of the section ``student``."""
    return {key_of(name): value for name, value in arguments.items() if is_student_argument(name)}


def student_sections(
    student: StudentConfig, space: Mapping[str, Parameter]
) -> list[tuple[StudentConfig, dict[str, list[Any]]]]:
    """Return the section of each kind of student that a search tries, with the values of its searched keys.

    For a range, these are its two ends.

    Raises:
        ConfigError: A kind needs a key that the section ``student`` does not have.
    """
    kinds = space[STUDENT_KIND].end_values() if STUDENT_KIND in space else [student.kind]
    found = []
    for kind in dict.fromkeys(kinds):
        section = as_kind(student, kind)
        values = {
            key: parameter.end_values()
            for key, parameter in student_keys(space).items()
            if key in section.searched_keys and applies_to(parameter, kind)
        }
        found.append((section, values))
    return found


def fitting_students(config: SearchConfig, students: Mapping[str, Student]) -> dict[str, dict[str, Any]]:
    """Return the students that meet every constraint known before training: their arguments, by name."""
    bounds = _known_bounds(config)
    return {
        name: arguments
        for name, arguments in student_names(config).items()
        if not _violated(bounds, name, students)
    }


def without_misfits(config: SearchConfig, students: Mapping[str, Student]) -> SearchConfig:
    """Return the search without what only leads to students that violate a constraint already before training.

    Removed are values of student arguments for which no student meets the constraints, and points that no such student
    agrees with. Combinations of the values that are left can still violate them: the searcher suggests none of these.

    Raises:
        ConfigError: All students violate a constraint.
    """
    bounds = _known_bounds(config)
    if not bounds:
        return config
    kept = list(fitting_students(config, students).values())
    if not kept:
        lines = (
            f"{name} has {students[name].metrics[each.metric]:.4g}"
            for name in student_names(config)
            for each in _violated(bounds, name, students)[:1]
        )
        raise ConfigError(
            f"search.constraints: no student satisfies {bounds[0]}: {', '.join(lines)}; relax the constraint"
        )
    left: dict[str, list[Any]] = {
        name: [
            value
            for value in config.space[name].all_values()
            if any(name in each and each[name] == value for each in kept)
        ]
        for name in filter(is_student_argument, config.space)
    }
    points = [point for point in config.points if any(agrees(each, point) for each in kept)]
    space = {name: each for name, each in config.space.items() if left.get(name, [each])}
    space |= {
        name: Choice(values=values, when=config.space[name].when) for name, values in left.items() if values
    }
    return config.model_copy(update={"space": space, "points": points})


def _known_bounds(config: SearchConfig) -> list[Constraint]:
    return [each for each in config.constraints if each.metric in STUDENT_METRICS]


def _violated(bounds: list[Constraint], name: str, students: Mapping[str, Student]) -> list[Constraint]:
    """Return the bounds that the student of this name violates."""
    return [each for each in bounds if each.excess(students[name].metrics) > 0]


def agrees(student: Mapping[str, Any], point: Mapping[str, Any]) -> bool:
    """Return whether a student has the values of a point, as far as it has these arguments at all."""
    return all(
        student.get(name, value) == value for name, value in point.items() if is_student_argument(name)
    )
