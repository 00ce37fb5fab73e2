"""The search space: its names and metrics, and how a trial draws from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..config import SearchConfig
from ..parameters import Parameter

if TYPE_CHECKING:
    import optuna


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
    values = {
        name: parameter.single_value() for name, parameter in config.space.items() if not parameter.when
    }
    return {name: value for name, value in values.items() if value is not None}


def searched(config: SearchConfig) -> dict[str, Parameter]:
    """Return every argument that is searched, by name; empty when all values are fixed."""
    return {name: each for name, each in config.space.items() if each.single_value() is None}


def draw(trial: optuna.Trial, space: Mapping[str, Parameter]) -> dict[str, Any]:
    """The arguments of a trial: fixed ones, and suggestions for those whose conditions hold."""
    values: dict[str, Any] = {}
    for name in by_condition(space):
        parameter = space[name]
        if not parameter.applies(values):
            continue
        value = parameter.single_value()
        values[name] = parameter.suggest(trial, name) if value is None else value
    return values


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
