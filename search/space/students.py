"""The students that a search tries: their names, what makes them, and which of them miss a constraint."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import ConfigError
from ...training.student.config import WidthConfig
from ..config import SearchConfig
from ..parameters import Choice, as_category
from .space import STUDENT_ARGUMENTS, STUDENT_HEADS, STUDENT_ROWS

# Metric that every trial with the same student has, known before it trains.
STUDENT_METRICS = {"latency_ms": "min", "num_parameters": "min"}
# Name of the student where the space names none.
ONLY_STUDENT = "student"


@dataclass(frozen=True)
class Student:
    """A checkpoint that trials start from.

    Attributes:
        key: Of the published folder.
        metrics: What all its trials share and is known before they train, such as ``latency_ms``; empty where all
            trials of the search share it.
    """

    key: str
    metrics: dict[str, float] = field(default_factory=dict)


def student_name(arguments: Mapping[str, Any]) -> str:
    """Name the student that a trial starts from, such as ``student.layers=[0, 5]``; ``student`` without a choice."""
    named = [f"{name}={as_category(arguments[name])}" for name in STUDENT_ARGUMENTS if name in arguments]
    return "; ".join(named) or ONLY_STUDENT


def shared_metrics(arguments: Mapping[str, Any], students: Mapping[str, Student]) -> dict[str, float]:
    """Return what all trials with the student of these arguments share and is known before they train."""
    return students[student_name(arguments)].metrics


def student_names(config: SearchConfig) -> dict[str, dict[str, Any]]:
    """Every student that trials of this search may start from, by name, with the searched arguments that make it."""
    named = [name for name in STUDENT_ARGUMENTS if name in config.space]
    every = itertools.product(*(config.space[name].all_values() for name in named))
    made = (dict(zip(named, values, strict=True)) for values in every)
    return {student_name(each): each for each in made}


def searched_width(width: WidthConfig | None, arguments: Mapping[str, Any]) -> WidthConfig | None:
    """The section ``student.width``, with the counts that a trial's arguments name in place of its own."""
    counts = {
        name.removeprefix("student."): arguments[name]
        for name in (STUDENT_HEADS, STUDENT_ROWS)
        if name in arguments
    }
    return WidthConfig.model_validate({**dict(width or {}), **counts}) if counts else width


def without_misfits(config: SearchConfig, students: Mapping[str, Student]) -> SearchConfig:
    """The search without the students that miss a constraint before they are trained.

    Of several arguments that make a student each loses the values with which no student keeps the constraint.

    Raises:
        ConfigError: All of them do.
    """
    bounds = [each for each in config.constraints if each.metric in STUDENT_METRICS]
    if not bounds:
        return config
    names = student_names(config)
    misfits = {name: each for name in names for each in bounds if each.excess(students[name].metrics) > 0}
    kept = [arguments for name, arguments in names.items() if name not in misfits]
    if not kept:
        lines = (f"{name} has {students[name].metrics[each.metric]:.4g}" for name, each in misfits.items())
        raise ConfigError(f"search.constraints: no student keeps {bounds[0]}: {', '.join(lines)}; allow more")
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
