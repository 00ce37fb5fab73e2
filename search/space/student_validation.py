"""Validate the arguments of a search that define a student, and what a job wants of a student that it cannot have."""

from __future__ import annotations

import math
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ...errors import shown
from ...training.distillation.config import TrainingConfig
from ...training.student.config import STUDENT_KINDS, StudentConfig
from ..config import SearchConfig
from ..parameters import IntRange
from .space import NUM_STUDENT_LAYERS, STUDENT_HEADS, STUDENT_LAYERS, STUDENT_ROWS, student_arguments

_MOST_STUDENTS = 1000


def student_faults(
    config: SearchConfig, training: TrainingConfig, student: StudentConfig | None
) -> list[str]:
    """Return the faults of the arguments that define a student, and of losses that it has no states for."""
    named = [name for name in student_arguments() if name in config.space]
    faults = []
    if STUDENT_LAYERS in named and NUM_STUDENT_LAYERS in named:
        faults.append(
            f"search.space: {STUDENT_LAYERS} and {NUM_STUDENT_LAYERS} are both given; keep one of them"
        )
    if student is not None:
        faults += _unsearched_faults(student, named)
        faults += _hidden_state_faults(config, training, student)
    for name in named:
        if config.space[name].when:
            faults.append(f"search.space.{name}: takes no `when`, since every trial needs a student")
    if STUDENT_LAYERS in config.space:
        faults += [
            f"search.space.{STUDENT_LAYERS}: {shown(value)} is rejected: give a list of teacher layers in "
            f"ascending order, "
            "such as [0, 5]"
            for value in config.space[STUDENT_LAYERS].end_values()
            if not (isinstance(value, list) and value and value == sorted(set(value)) and value[0] >= 0)
        ]
    if isinstance(config.space.get(STUDENT_ROWS), IntRange):
        faults.append(
            f"search.space.{STUDENT_ROWS}: a range is rejected, since a student is built for each value; give a "
            f"choice"
        )
    if student is not None:
        faults += _key_faults(config, student, named)
    for name, most in ((NUM_STUDENT_LAYERS, 1000), (STUDENT_HEADS, 1000), (STUDENT_ROWS, 2**20)):
        faults += [
            f"search.space.{name}: {shown(value)} is rejected: it must be a whole number from 1 to {most:,}"
            for value in (config.space[name].end_values() if name in config.space else [])
            if type(value) is not int or not 1 <= value <= most
        ]
    if (
        not faults
        and (count := math.prod(config.space[name].num_values() for name in named)) > _MOST_STUDENTS
    ):
        faults.append(
            f"search.space: {', '.join(named)} make {count:,} students; accepted: at most {_MOST_STUDENTS}, give "
            f"fewer values"
        )
    return faults


def _key_faults(config: SearchConfig, student: StudentConfig, named: list[str]) -> list[str]:
    """Return a fault for each value of a searched key that the student's section does not accept."""
    faults, section = [], type(student)
    for name in named:
        key = name.removeprefix("student.")
        if name == STUDENT_LAYERS or key not in section.model_fields:
            continue  # its values are checked apart
        annotation: Any = section.model_fields[key].rebuild_annotation()
        accepted = TypeAdapter(annotation, config=section.model_config)
        for value in config.space[name].end_values():
            try:
                accepted.validate_python(value)
            except ValidationError as error:
                reason = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
                faults.append(
                    f"search.space.{name}: {shown(value)} is rejected: {reason[0].lower()}{reason[1:]}"
                )
    return faults


def _hidden_state_faults(config: SearchConfig, training: TrainingConfig, student: StudentConfig) -> list[str]:
    """Return a fault for each weight of a loss of hidden states if the student has no layers."""
    if student.has_layers:
        return []
    from ...training.distillation.losses.base import LOSS_TERMS

    faults = []
    able = " or ".join(STUDENT_KINDS.name_of(kind) for kind in STUDENT_KINDS if kind.has_layers)
    for term in (each for each in LOSS_TERMS if "hidden_states" in each.needs):
        name = term.path()
        values = {f"search.space.{name}": config.space[name].end_values() if name in config.space else []}
        if term.argument is not None:
            values[f"training.arguments.{name}"] = [training.arguments.get(name, 0)]
        elif term.name in training.losses:
            values[name] = [training.losses[term.name].weight]
        faults += [
            f"{where}: {shown(value)} given, but a student of kind {student.kind} has no hidden states to compare "
            f"with the teacher's; remove it, or set student.kind to {able}"
            for where, given in values.items()
            for value in given
            if isinstance(value, int | float) and value > 0
        ]
    return faults


def _unsearched_faults(student: StudentConfig, named: list[str]) -> list[str]:
    """Return a fault for each student argument that a student of this kind does not have."""
    faults = []
    for name in named:
        key = name.removeprefix("student.")
        if key not in student.searched_keys:
            able = [STUDENT_KINDS.name_of(kind) for kind in STUDENT_KINDS if key in kind.searched_keys]
            accepted = ", ".join(f"student.{each}" for each in student.searched_keys) or "none of them"
            faults.append(
                f"search.space.{name}: refused for a student of kind {student.kind}, which accepts {accepted}; leave "
                f"it out, or describe a student of kind {' or '.join(able)}"
            )
    return faults
