"""Validate the arguments of a search that define a student, and keys of a job that its students do not support."""

from __future__ import annotations

import math
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ...errors import ConfigError, shown
from ...training.distillation.config import TrainingConfig
from ...training.student.config import STUDENT_KINDS, StudentConfig, as_kind
from ..config import SearchConfig
from ..parameters import IntRange
from ..student_arguments import (
    STUDENT_KIND,
    applies_to,
    implied_condition,
    key_of,
    kinds_with,
    student_arguments,
)
from .space import NUM_STUDENT_LAYERS, STUDENT_HEADS, STUDENT_LAYERS, STUDENT_ROWS

_MOST_STUDENTS = 1000


def student_faults(
    config: SearchConfig, training: TrainingConfig, student: StudentConfig | None
) -> list[str]:
    """Return the faults of the arguments that define a student, and of keys that its kind cannot be trained with.

    Args:
        config: The ``search`` section.
        training: The ``training`` section.
        student: The ``student`` section, to check kinds and keys; None checks the values alone.
    """
    named = [name for name in student_arguments() if name in config.space]
    faults = []
    if STUDENT_LAYERS in named and NUM_STUDENT_LAYERS in named:
        faults.append(
            f"search.space: {STUDENT_LAYERS} and {NUM_STUDENT_LAYERS} are both given; keep one of them"
        )
    kind_faults = _kind_faults(config, student)
    faults += kind_faults
    if student is not None and not kind_faults:
        sections = [as_kind(student, kind) for kind in _kinds(config, student)]
        faults += _unsearched_faults(sections, named)
        for section in sections:
            faults += _hidden_state_faults(config, training, section)
            faults += _recomputation_faults(training, section)
            faults += _key_faults(config, section, named)
        faults += _training_faults(config, training)
    faults += [
        f"search.space.{name}: takes no `when` but on {STUDENT_KIND}, with kinds that have this key, since every "
        f"trial needs a student"
        for name in named
        if config.space[name].when != implied_condition(name, config.space)
    ]
    faults += _value_faults(config)
    if not faults and (count := _num_students(config, named)) > _MOST_STUDENTS:
        faults.append(
            f"search.space: {', '.join(named)} make {count:,} students; accepted: at most {_MOST_STUDENTS}, give "
            f"fewer values"
        )
    return list(dict.fromkeys(faults))


def _kinds(config: SearchConfig, student: StudentConfig) -> list[str]:
    """Return the kinds of students that a search tries."""
    searched = config.space.get(STUDENT_KIND)
    return [student.kind] if searched is None else list(dict.fromkeys(searched.end_values()))


def _kind_faults(config: SearchConfig, student: StudentConfig | None) -> list[str]:
    """Return a fault for each searched kind that is unknown, or that needs a key which the section lacks."""
    faults = []
    for kind in config.space[STUDENT_KIND].end_values() if STUDENT_KIND in config.space else []:
        if kind not in STUDENT_KINDS:
            faults.append(
                f"search.space.{STUDENT_KIND}: {shown(kind)} is not known; accepted: "
                f"{', '.join(STUDENT_KINDS.names)}"
            )
        elif student is not None:
            try:
                as_kind(student, kind)
            except ConfigError as error:
                faults.append(f"search.space.{STUDENT_KIND}: {shown(kind)} is rejected: {error}")
    return faults


def _training_faults(config: SearchConfig, training: TrainingConfig) -> list[str]:
    """Return a fault for each kind that ``training.by_kind`` names and no trial has."""
    tried = config.space[STUDENT_KIND].end_values() if STUDENT_KIND in config.space else []
    accepted = (
        f"accepted: {', '.join(map(str, tried))}"
        if tried
        else f"search.space has no {STUDENT_KIND}; give the values in `training` itself"
    )
    epochs = "num_train_epochs"
    return [
        *(
            f"training.by_kind.{kind}: no trial has a student of this kind; {accepted}"
            for kind in training.by_kind
            if kind not in tried
        ),
        *(
            f"training.by_kind.{kind}.{epochs}: {each.num_train_epochs} given, but search.space.{epochs} has a value "
            f"in every trial of this kind; remove it, or restrict search.space.{epochs} to other kinds with "
            f"`when: {{{STUDENT_KIND}: …}}`"
            for kind, each in training.by_kind.items()
            if each.num_train_epochs is not None and is_always_searched(config, epochs, kind)
        ),
    ]


def is_always_searched(config: SearchConfig, name: str, kind: str) -> bool:
    """Return whether every trial with a student of this kind has a searched value of the argument."""
    parameter = config.space.get(name)
    return parameter is not None and applies_to(parameter, kind) and not {*parameter.when} - {STUDENT_KIND}


def _value_faults(config: SearchConfig) -> list[str]:
    """Return the faults of searched values of layers, heads and feed-forward rows."""
    faults = []
    if STUDENT_LAYERS in config.space:
        faults += [
            f"search.space.{STUDENT_LAYERS}: {shown(value)} is rejected: give a list of teacher layers in "
            f"ascending order, such as [0, 5]"
            for value in config.space[STUDENT_LAYERS].end_values()
            if not (isinstance(value, list) and value and value == sorted(set(value)) and value[0] >= 0)
        ]
    if isinstance(config.space.get(STUDENT_ROWS), IntRange):
        faults.append(
            f"search.space.{STUDENT_ROWS}: a range is rejected, since a student is built for each value; give a "
            f"choice"
        )
    for name, most in ((NUM_STUDENT_LAYERS, 1000), (STUDENT_HEADS, 1000), (STUDENT_ROWS, 2**20)):
        faults += [
            f"search.space.{name}: {shown(value)} is rejected: it must be a whole number from 1 to {most:,}"
            for value in (config.space[name].end_values() if name in config.space else [])
            if type(value) is not int or not 1 <= value <= most
        ]
    return faults


def _num_students(config: SearchConfig, named: list[str]) -> int:
    """Return the number of students, without listing them."""
    keys = [name for name in named if name != STUDENT_KIND]
    if STUDENT_KIND not in config.space:
        return math.prod(config.space[name].num_values() for name in keys)
    return sum(
        math.prod(config.space[name].num_values() for name in keys if applies_to(config.space[name], kind))
        for kind in config.space[STUDENT_KIND].end_values()
    )


def _key_faults(config: SearchConfig, student: StudentConfig, named: list[str]) -> list[str]:
    """Return a fault for each value of a searched key that the student's section does not accept."""
    faults, section = [], type(student)
    for name in named:
        key = key_of(name)
        if name in (STUDENT_KIND, STUDENT_LAYERS) or key not in section.model_fields:
            continue  # other functions check its values
        if not applies_to(config.space[name], student.kind):
            continue
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


def _recomputation_faults(training: TrainingConfig, student: StudentConfig) -> list[str]:
    """Return a fault if the activations of layers should be computed again and the student has no layers."""
    if student.has_layers:
        return []
    return [
        f"training.arguments.{name}: {shown(training.arguments[name])} given, but a student of kind {student.kind} has "
        "no layers whose activations could be computed again; remove it"
        for name in ("activation_checkpointing", "gradient_checkpointing")  # transformers' old name
        if training.arguments.get(name)
    ]


def _hidden_state_faults(config: SearchConfig, training: TrainingConfig, student: StudentConfig) -> list[str]:
    """Return a fault for each weight of a loss of hidden states if the student has no layers."""
    if student.has_layers:
        return []
    from ...training.distillation.losses.base import LOSS_TERMS

    faults = []
    able = [STUDENT_KINDS.name_of(kind) for kind in STUDENT_KINDS if kind.has_layers]
    remedy = f"remove it, or set student.kind to {' or '.join(able)}"
    if STUDENT_KIND in config.space:
        remedy = f"search it with `when: {{{STUDENT_KIND}: [{', '.join(able)}]}}`, or remove it"
    for term in (each for each in LOSS_TERMS if "hidden_states" in each.needs):
        name = term.path()
        searched = config.space.get(name)
        values = {f"search.space.{name}": []}
        if searched is not None and applies_to(searched, student.kind):
            values[f"search.space.{name}"] = searched.end_values()
        if term.argument is not None:
            values[f"training.arguments.{name}"] = [training.arguments.get(name, 0)]
        elif term.name in training.losses:
            values[name] = [training.losses[term.name].weight]
        faults += [
            f"{where}: {shown(value)} given, but a student of kind {student.kind} has no hidden states to compare "
            f"with the teacher's; {remedy}"
            for where, given in values.items()
            for value in given
            if isinstance(value, int | float) and value > 0
        ]
    return faults


def _unsearched_faults(sections: list[StudentConfig], named: list[str]) -> list[str]:
    """Return a fault for each argument that no student of the search has."""
    kinds = " or ".join(section.kind for section in sections)
    searched = dict.fromkeys(key for section in sections for key in section.searched_keys)
    accepted = ", ".join(f"student.{key}" for key in searched) or "none of them"
    return [
        f"search.space.{name}: refused for a student of kind {kinds}, which accepts {accepted}; leave it out, or "
        f"describe a student of kind {' or '.join(kinds_with(name))}"
        for name in named
        if name != STUDENT_KIND and key_of(name) not in searched
    ]
