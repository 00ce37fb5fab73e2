"""The search space: the specification's ranges as Optuna distributions, and how a trial draws from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..config import SearchConfig
from ..parameters import Choice, Condition, Fixed, FloatRange, IntRange, Parameter

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution


# Metric that every epoch reports -> the mode in which it is better.
METRICS = {
    "validation_accuracy": "max",
    "validation_in_scope_accuracy": "max",
    "validation_oos_recall": "max",
    "validation_loss": "min",
    "sparsity": "max",
}
STUDENT_LAYERS, NUM_STUDENT_LAYERS = "student.layers", "student.num_layers"
STUDENT_HEADS, STUDENT_ROWS = "student.num_attention_heads", "student.intermediate_size"
STUDENT_ARGUMENTS = (STUDENT_LAYERS, NUM_STUDENT_LAYERS, STUDENT_HEADS, STUDENT_ROWS)
# How many texts that only the teacher labels a trial trains on, and their kind; without it: all there are.
TEXT_COUNTS = {
    "data.unlabelled.count": "unlabelled",
    "data.augmentation.spliced.count": "spliced",
    "data.augmentation.dropped.count": "dropped",
    "data.augmentation.masked.count": "masked",
}
# Takes the place of its key in the training section.
SPARSITY = "training.pruning.sparsity"
# What is searched and is no argument of the training itself.
OTHER_ARGUMENTS = (*STUDENT_ARGUMENTS, *TEXT_COUNTS, SPARSITY)


def fixed_values(config: SearchConfig) -> dict[str, Any]:
    """Arguments that have the same value in every trial: fixed ones, and ranges that hold a single value."""
    values = {name: single_value(parameter) for name, parameter in config.space.items() if not parameter.when}
    return {name: value for name, value in values.items() if value is not None}


def distributions(config: SearchConfig) -> dict[str, BaseDistribution]:
    """Optuna's distribution of every argument that is searched, by name; empty when all values are fixed."""
    return {
        name: distribution(parameter)
        for name, parameter in config.space.items()
        if single_value(parameter) is None
    }


def draw(trial: optuna.Trial, space: Mapping[str, Parameter]) -> dict[str, Any]:
    """The arguments of a trial: fixed ones, and suggestions for those whose conditions hold."""
    values: dict[str, Any] = {}
    for name in by_condition(space):
        parameter = space[name]
        if not _holds(parameter, values):
            continue
        value = single_value(parameter)
        if value is None:
            value = from_category(_suggest(trial, name, parameter), parameter)
        values[name] = value
    return values


def _suggest(trial: optuna.Trial, name: str, parameter: Parameter) -> Any:
    if isinstance(parameter, FloatRange):
        return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)
    if isinstance(parameter, IntRange):
        return trial.suggest_int(name, parameter.low, parameter.high, log=parameter.log)
    assert isinstance(parameter, Choice), f"{parameter} has one value"
    return trial.suggest_categorical(name, [as_category(value) for value in parameter.values])


def by_condition(space: Mapping[str, Parameter]) -> list[str]:
    """Names in an order in which each comes after those that its condition asks about.

    Raises:
        ValueError: Conditions ask about one another in a circle; with the names in it.
    """
    ordered: list[str] = []
    left = list(space)
    while left:
        ready = [name for name in left if not set(space[name].when) & set(left)]
        if not ready:
            raise ValueError(", ".join(left))
        ordered += ready
        left = [name for name in left if name not in ready]
    return ordered


def _holds(parameter: Parameter, values: Mapping[str, Any]) -> bool:
    return all(
        other in values and values[other] in accepted_values(given) for other, given in parameter.when.items()
    )


def accepted_values(given: Condition) -> list[Any]:
    """A condition's values as a list."""
    return given if isinstance(given, list) else [given]


def distribution(parameter: Parameter) -> BaseDistribution:
    """Optuna's distribution of an argument that is searched."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(parameter, FloatRange):
        return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
    if isinstance(parameter, IntRange):
        return IntDistribution(parameter.low, parameter.high, log=parameter.log)
    assert isinstance(parameter, Choice), f"{parameter} has one value"
    return CategoricalDistribution([as_category(value) for value in parameter.values])


def as_category(value: Any) -> Any:
    """A value as Optuna holds it: a list is no category, its JSON is."""
    return json.dumps(value) if isinstance(value, list) else value


def from_category(value: Any, parameter: Parameter) -> Any:
    """What ``as_category`` was given."""
    if not isinstance(parameter, Choice):
        return value
    return next((each for each in parameter.values if as_category(each) == value), value)


def single_value(parameter: Parameter) -> Any:
    """The value of an argument that has no other; None of one that is searched."""
    values = end_values(parameter)
    return values[0] if all(value == values[0] for value in values) else None


def end_values(parameter: Parameter) -> list[Any]:
    """The two ends of a range, or every choice."""
    if isinstance(parameter, Fixed):
        return [parameter.value]
    return parameter.values if isinstance(parameter, Choice) else [parameter.low, parameter.high]


def num_values(parameter: Parameter) -> int:
    """How many values an argument may have; 1 of a range of floats."""
    if isinstance(parameter, Choice):
        return len(parameter.values)
    return parameter.high - parameter.low + 1 if isinstance(parameter, IntRange) else 1
