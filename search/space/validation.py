"""Validate a search section, with all faults in one error, before anything is started."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from ...errors import ConfigError, first_line, listed, shown
from ...training import tasks
from ...training.compression.pruning.base import PRUNING_RULES, has_sparsity
from ...training.data.config import DataConfig
from ...training.distillation.config import TrainingConfig
from ...training.section import MOST_SEED
from ...training.student.config import StudentConfig
from ...training.tasks import SINGLE_LABEL
from ..config import SearchConfig
from ..parameters import FloatRange, Parameter, accepted_values
from ..student_arguments import is_student_argument
from .combinations import combination_faults
from .space import (
    NUM_STUDENT_LAYERS,
    SPARSITY,
    STUDENT_LAYERS,
    TEXT_COUNTS,
    VALIDATION,
    by_condition,
    is_training_argument,
    metrics_of,
    named_metrics,
    other_arguments,
)
from .student_validation import is_always_searched, student_faults
from .students import STUDENT_METRICS

_MOST_ARGUMENT = {
    "per_device_train_batch_size": 2**20,
    "per_device_eval_batch_size": 2**20,
    "gradient_accumulation_steps": 10**6,
    "dataloader_num_workers": 1024,
    "data_seed": MOST_SEED,
}
"""Upper bounds of these training arguments; every other whole number is at most 10^9."""


def check_space(
    config: SearchConfig,
    training: TrainingConfig,
    student: StudentConfig | None = None,
    data: DataConfig | None = None,
    task: str = SINGLE_LABEL.name,
    metric: str | None = None,
) -> None:
    """Reject an invalid search before Ray is started.

    Args:
        config: The ``search`` section.
        training: The ``training`` section.
        student: The ``student`` section, to check the student's layers in the space.
        data: The ``data`` section, to check counts of texts in the space.
        task: Name of the task, to check metrics.
        metric: The job's metric; None: the task's first.

    Raises:
        ConfigError: There are ``space_faults``; all are in one message.
    """
    if faults := space_faults(config, training, student, data, task, metric):
        raise ConfigError(listed(faults))


def space_faults(
    config: SearchConfig,
    training: TrainingConfig,
    student: StudentConfig | None = None,
    data: DataConfig | None = None,
    task: str = SINGLE_LABEL.name,
    metric: str | None = None,
) -> list[str]:
    """Return the faults of a search section.

    These are unknown arguments (with the nearest valid name), values that an argument does not accept, conditions that
    cannot hold, metrics that are not reported, and points outside of the space.
    """
    from ...training.distillation.arguments import argument_names

    known = {*argument_names(), *other_arguments()}
    names = [name for name in config.space if name in known]
    return [
        *(_unknown(f"search.space.{name}", name, known) for name in config.space if name not in known),
        *student_faults(config, training, student),
        *(_count_faults(config, data) if data is not None else []),
        *_sparsity_faults(config, training),
        *_refused_values(config, training, names),
        *_quantization_faults(config, training),
        *_condition_faults(config.space),
        *_metric_faults(config, _reported(config, task, metric), task),
        *combination_faults(config),
        *(
            fault
            for number, point in enumerate(config.points)
            for fault in _point_faults(config, number, point)
        ),
    ]


def _count_faults(config: SearchConfig, data: DataConfig) -> list[str]:
    sections = {"unlabelled": data.unlabelled, **dict(data.augmentation)}
    faults = []
    for name, kind in TEXT_COUNTS.items():
        section, section_name = sections[kind], name.removesuffix(".count")
        if name in config.space and section is None:
            faults.append(f"search.space.{name}: there are no such texts; configure them in {section_name}")
        elif name in config.space:
            most = section.count
            accepted = (
                "a whole number of 0 or more" if most is None else f"a whole number from 0 to {name}, {most}"
            )
            faults += [
                f"search.space.{name}: {shown(value)} is rejected: it must be {accepted}"
                for value in config.space[name].end_values()
                if type(value) is not int or not 0 <= value <= (value if most is None else most)
            ]
    return faults


def _sparsity_faults(config: SearchConfig, training: TrainingConfig) -> list[str]:
    if training.pruning is None:
        bounded = (*config.all_objectives, *config.constraints)
        named = [f"search.space.{SPARSITY}"] if SPARSITY in config.space else []
        named += ["search: the metric sparsity"] if any(each.metric == "sparsity" for each in bounded) else []
        return [f"{where}: nothing is pruned; configure training.pruning" for where in named]
    if SPARSITY not in config.space:
        return []
    if not has_sparsity(training.pruning):
        able = ", ".join(
            PRUNING_RULES.name_of(each) for each in PRUNING_RULES if "sparsity" in each.model_fields
        )
        return [
            f"search.space.{SPARSITY}: the method {training.pruning.method} has no sparsity; set "
            f"training.pruning.method to one of {able}"
        ]
    return [
        f"search.space.{SPARSITY}: {shown(value)} is rejected: it must be a number from 0 to below 1"
        for value in config.space[SPARSITY].end_values()
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1
    ]


def _refused_values(config: SearchConfig, training: TrainingConfig, names: list[str]) -> list[str]:
    """Create training arguments with both ends of every range and every choice, and return their errors as faults."""
    if reason := _refusal(training, {}):
        return [reason]
    ends = {
        name: list({repr(value): value for value in config.space[name].end_values()}.values())
        for name in names
        if is_training_argument(name)
    }
    faults = [
        f"search.space.{name}: {shown(value)} is rejected: {reason}"
        for name, values in ends.items()
        for value in values
        if (reason := _refusal(training, {name: value}))
    ]
    together = None if faults else _refusal(training, {name: values[0] for name, values in ends.items()})
    return [f"search.space: {together}"] if together else faults


def _refusal(training: TrainingConfig, values: dict[str, Any]) -> str | None:
    from ...training.distillation.arguments import arguments_from_config

    for name, value in training.arguments.items():
        if fault := _size_fault(name, value):
            return f"training.arguments.{name}: {shown(value)} is rejected: {fault}"
    for name, value in values.items():
        if fault := _size_fault(name, value):
            return fault
    try:
        arguments = arguments_from_config(training, ".", **values, use_cpu=True)
    except Exception as error:  # transformers reads files, imports packages and computes with the values
        return first_line(error)
    for name, value in values.items():
        # Arguments with a numeric default are numbers, and so are our own short names.
        default = getattr(type(arguments), name, 0.0)
        if type(default) in (int, float) and not isinstance(value, int | float):
            return "it must be a number"
    return None if arguments.num_train_epochs > 0 else "it must be a number above 0"


def _size_fault(name: str, value: Any) -> str | None:
    """Return what is wrong with the size of an argument's value, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    field = TrainingConfig.model_fields.get(name)
    if field is None:
        most = _MOST_ARGUMENT.get(name, 10**9 if isinstance(value, int) else None)
    else:  # only counts have bounds: a bad rate costs one trial, from which the search learns
        most = next(
            (each.le for each in field.metadata if field.annotation is int and hasattr(each, "le")), None
        )
    if most is not None and value > most:
        return f"accepted: at most {most:,}"
    return "accepted: 0 or above" if name.endswith("seed") and value < 0 else None


def _quantization_faults(config: SearchConfig, training: TrainingConfig) -> list[str]:
    """Return a fault if quantization-aware training has more epochs than the shortest trial."""
    if training.quantization_aware is None or "max_steps" in training.arguments:
        return []
    searched, quantized_epochs = config.space.get("num_train_epochs"), training.quantization_aware.num_epochs
    own = training.arguments.get("num_train_epochs", training.num_train_epochs)
    given = {"training.num_train_epochs": [own] if searched is None or searched.when else []}
    given |= {
        f"training.by_kind.{kind}.num_train_epochs": [each.num_train_epochs]
        for kind, each in training.by_kind.items()
        if not is_always_searched(config, "num_train_epochs", kind)
    }
    given |= {"search.space.num_train_epochs": [] if searched is None else searched.end_values()}
    counts = {
        where: [each for each in values if isinstance(each, int | float)] for where, values in given.items()
    }
    numbers = {where: min(values) for where, values in counts.items() if values}
    return [
        f"training.quantization_aware.num_epochs: {quantized_epochs:g} given, but {where} may be {count:g}; "
        f"give at most that many, or a share below 1"
        for where, count in numbers.items()
        if quantized_epochs >= 1 and quantized_epochs > count
    ]


def _condition_faults(space: dict[str, Parameter]) -> list[str]:
    faults = []
    for name, parameter in space.items():
        for other, given in parameter.when.items():
            where = f"search.space.{name}.when.{other}"
            if other not in space:
                faults.append(_unknown(where, other, space, "argument of the space"))
            elif isinstance(space[other], FloatRange) and space[other].single_value() is None:
                faults.append(f"{where}: a condition cannot test a range of floats; make {other} a choice")
            elif not any(space[other].contains(value) for value in accepted_values(given)):
                faults.append(f"{where}: {other} is never {shown(given)}; {space[other].accepted()}")
    try:
        by_condition(space)
    except ValueError as error:
        faults.append(f"search.space: the conditions of {error} depend on one another; remove one `when`")
    return faults


def _reported(config: SearchConfig, task: str, metric: str | None) -> dict[str, str]:
    """Return every metric that a search of the task can name, with its mode."""
    found = tasks.get(task)
    also = [*found.metric_names, *named_metrics(config, task), *([metric] if metric else [])]
    return metrics_of(task, also, with_threshold=found.out_of_scope is not None)


def _metric_faults(config: SearchConfig, reported: dict[str, str], task: str) -> list[str]:
    patterns = [f"{VALIDATION}{kind}.LABEL" for kind in tasks.get(task).label_metrics]
    faults = _metric("search.metric", "search.mode", config.metric, config.mode, reported, patterns)
    every = {**reported, **STUDENT_METRICS}
    objectives = {f"search.objectives.{number}": each for number, each in enumerate(config.objectives)}
    bounds = {f"search.constraints.{number}": each.metric for number, each in enumerate(config.constraints)}
    seen = {config.metric}
    for where, objective in objectives.items():
        faults += _metric(
            f"{where}.metric", f"{where}.mode", objective.metric, objective.mode, every, patterns
        )
        if objective.metric in seen:
            faults.append(f"{where}.metric: {objective.metric} is already an objective; list each once")
        seen.add(objective.metric)
    faults += [
        _unknown(where, metric, [*every, *patterns], "metric")
        for where, metric in bounds.items()
        if metric not in every
    ]
    if not any(is_student_argument(name) for name in config.space):
        named = {f"{where}.metric": each.metric for where, each in objectives.items()} | bounds
        faults += [
            f"{where}: {metric} depends only on the student, and all trials have the same one; search "
            f"{NUM_STUDENT_LAYERS} "
            f"or {STUDENT_LAYERS}, or leave it out"
            for where, metric in named.items()
            if metric in STUDENT_METRICS
        ]
    return faults


def _metric(
    where: str, where_mode: str, metric: str, mode: str, known: dict[str, str], patterns: list[str]
) -> list[str]:
    if metric not in known:
        return [_unknown(where, metric, [*known, *patterns], "metric")]
    if known[metric] == mode:
        return []
    better = "lower" if known[metric] == "min" else "higher"
    return [
        f"{where_mode}: {mode!r} given, but a {better} {metric} is better; set {where_mode} to {known[metric]!r}"
    ]


def _point_faults(config: SearchConfig, number: int, point: dict[str, Any]) -> list[str]:
    faults = []
    for name, value in point.items():
        where = f"search.points.{number}.{name}"
        if name not in config.space:
            faults.append(_unknown(where, name, config.space, "argument of the space"))
        elif not config.space[name].contains(value):
            faults.append(f"{where}: {shown(value)} is outside of the space; {config.space[name].accepted()}")
    return faults


def _unknown(where: str, name: str, known: Any, kind: str = "training argument") -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {_listed(sorted(known))}"
    hint += f" accepted: {_listed(list(known))}" if near and kind == "metric" else ""
    return f"{where}: {shown(name)} is not {'an' if kind[0] in 'aeiou' else 'a'} {kind}; {hint}"


def _listed(names: Sequence[str]) -> str:
    """Join names with commas; the common prefix of the validation metrics is shown only once."""
    plain = [name for name in names if not name.startswith(VALIDATION)]
    measured = [name.removeprefix(VALIDATION) for name in names if name.startswith(VALIDATION)]
    if len(measured) > 1:
        return "; ".join(
            filter(None, [", ".join(plain), f"with the prefix {VALIDATION}: {', '.join(measured)}"])
        )
    return ", ".join(names)
