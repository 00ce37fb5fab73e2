"""The students that a search tries: their names, their arguments, and which of them violate a constraint."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import ConfigError
from ..config import SearchConfig
from ..parameters import Choice, as_category
from .space import student_arguments

# Metric that all trials with the same student share, known before training -> its mode.
STUDENT_METRICS = {"latency_ms": "min", "num_parameters": "min"}
# Name of the student where the space has no student arguments.
ONLY_STUDENT = "student"


@dataclass(frozen=True)
class Student:
    """A checkpoint that trials start from.

    Attributes:
        key: Key of the published folder.
        metrics: Metrics that all its trials share, known before training, such as ``latency_ms``; empty where all
            trials of the search share them.
    """

    key: str
    metrics: dict[str, float] = field(default_factory=dict)


def student_name(arguments: Mapping[str, Any]) -> str:
    """Return the name of a trial's student, such as ``student.layers=[0, 5]``; ``student`` where none is searched."""
    named = [f"{name}={as_category(arguments[name])}" for name in student_arguments() if name in arguments]
    return "; ".join(named) or ONLY_STUDENT


def shared_metrics(arguments: Mapping[str, Any], students: Mapping[str, Student]) -> dict[str, float]:
    """Return the metrics, known before training, that all trials with the student of these arguments share."""
    return students[student_name(arguments)].metrics


def student_names(config: SearchConfig) -> dict[str, dict[str, Any]]:
    """Return every student of the search: its name -> the searched arguments that define it."""
    named = [name for name in student_arguments() if name in config.space]
    every = itertools.product(*(config.space[name].all_values() for name in named))
    made = (dict(zip(named, values, strict=True)) for values in every)
    return {student_name(each): each for each in made}


def student_keys(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the arguments that define a student, by key of the section ``student``."""
    return {
        name.removeprefix("student."): arguments[name] for name in student_arguments() if name in arguments
    }


def without_misfits(config: SearchConfig, students: Mapping[str, Student]) -> SearchConfig:
    """Return the search without the students that violate a constraint before they are trained.

    Each argument that defines a student loses the values for which no student meets the constraints.

    Raises:
        ConfigError: All students violate a constraint.
    """
    bounds = [each for each in config.constraints if each.metric in STUDENT_METRICS]
    if not bounds:
        return config
    names = student_names(config)
    misfits = {name: each for name in names for each in bounds if each.excess(students[name].metrics) > 0}
    kept = [arguments for name, arguments in names.items() if name not in misfits]
    if not kept:
        lines = (f"{name} has {students[name].metrics[each.metric]:.4g}" for name, each in misfits.items())
        raise ConfigError(
            f"search.constraints: no student satisfies {bounds[0]}: {', '.join(lines)}; relax the constraint"
        )
    left = {
        name: [
            value for value in config.space[name].all_values() if any(each[name] == value for each in kept)
        ]
        for name in kept[0]
    }
    points = [
        point
        for point in config.points
        if all(point.get(name, values[0]) in values for name, values in left.items())
    ]
    space = {**config.space, **{name: Choice(values=values) for name, values in left.items()}}
    return config.model_copy(update={"space": space, "points": points})
