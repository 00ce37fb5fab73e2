"""The search space: names of arguments and metrics, and sampling the arguments of a trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...training import tasks
from ..config import SearchConfig
from ..parameters import Parameter
from ..student_arguments import is_student_argument, student_arguments

if TYPE_CHECKING:
    import optuna

    from ...training.distillation.config import TrainingConfig
    from ...training.distillation.losses.base import LossTerm


STUDENT_LAYERS, NUM_STUDENT_LAYERS = "student.layers", "student.num_layers"
STUDENT_HEADS, STUDENT_ROWS = "student.num_attention_heads", "student.intermediate_size"
# Arguments for the number of texts of the transfer set that a trial trains on (default: all), with the texts' kind.
TEXT_COUNTS = {
    "data.unlabelled.count": "unlabelled",
    "data.augmentation.spliced.count": "spliced",
    "data.augmentation.dropped.count": "dropped",
    "data.augmentation.masked.count": "masked",
}
# This argument replaces the same key of the section training.
SPARSITY = "training.pruning.sparsity"


VALIDATION = "validation_"
"""Prefix of a task's metrics among those that an epoch reports."""
THRESHOLD_METRIC = f"{VALIDATION}accuracy_with_threshold"
"""Accuracy with the out-of-scope threshold that is selected on the same logits, if the job has a threshold."""


def other_arguments() -> tuple[str, ...]:
    """Return the searched arguments that are not training arguments."""
    return (*student_arguments(), *TEXT_COUNTS, SPARSITY)


def is_training_argument(name: str) -> bool:
    """Return whether a searched argument is one of the training arguments."""
    return not is_student_argument(name) and name not in (*TEXT_COUNTS, SPARSITY)


def metrics_of(task: str, also: Iterable[str] = (), *, with_threshold: bool = False) -> dict[str, str]:
    """Return the metrics that every epoch of a task's trial reports, with their modes; the task's first metric leads.

    Args:
        task: Name of the task.
        also: Names of further metrics of the task that are reported.
        with_threshold: Whether ``THRESHOLD_METRIC`` is reported.

    Raises:
        InputError: There is no such task, or it has no such metric.
    """
    found = tasks.get(task)
    names = dict.fromkeys((*found.metric_modes, *found.epoch_metrics, *also))
    own = {f"{VALIDATION}{name}": found.metric_mode(name) for name in names}
    own |= {THRESHOLD_METRIC: "max"} if with_threshold else {}
    return {**own, "validation_loss": "min", "sparsity": "max"}


def key_that_names(metric: str, config: SearchConfig) -> str | None:
    """Return the key of a search that names a metric, or None."""
    named = {
        "search.metric": [config.metric],
        "search.objectives": [each.metric for each in config.objectives],
        "search.constraints": [each.metric for each in config.constraints],
    }
    return next((key for key, metrics in named.items() if metric in metrics), None)


def named_metrics(config: SearchConfig, task: str) -> list[str]:
    """Return the task's metrics that a search optimises or bounds, without their prefix."""
    found, named = tasks.get(task), []
    for each in (*config.all_objectives, *config.constraints):
        name = each.metric.removeprefix(VALIDATION)
        with suppress(InputError):  # not a metric of the task, such as latency_ms, or an unknown one
            if name != each.metric and found.metric_mode(name):
                named.append(name)
    return named


def fixed_values(config: SearchConfig) -> dict[str, Any]:
    """Return the arguments with the same value in every trial: fixed ones, and ranges with a single value."""
    values = {
        name: parameter.single_value() for name, parameter in config.space.items() if not parameter.when
    }
    return {name: value for name, value in values.items() if value is not None}


def searched(config: SearchConfig) -> dict[str, Parameter]:
    """Return every argument that is searched, by name; empty if all values are fixed."""
    return {name: each for name, each in config.space.items() if each.single_value() is None}


def draw(trial: optuna.Trial, space: Mapping[str, Parameter], *, every: bool = False) -> dict[str, Any]:
    """Return the arguments of a trial: fixed values, and suggestions for arguments whose conditions hold.

    Args:
        trial: Trial that suggests the values.
        space: The parameters by argument name.
        every: Let the trial suggest values of the other searched arguments too; they are not returned.
    """
    values: dict[str, Any] = {}
    for name in by_condition(space):
        parameter = space[name]
        value, applies = parameter.single_value(), parameter.applies(values)
        if value is None and (applies or every):
            value = parameter.suggest(trial, name)
        if applies:
            values[name] = value
    return values


def by_condition(space: Mapping[str, Parameter]) -> list[str]:
    """Return the names in an order in which each follows those that its condition depends on.

    Raises:
        ValueError: Conditions form a cycle; the message has the names in it.
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


def may_have_weight(term: type[LossTerm], config: SearchConfig, training: TrainingConfig) -> bool:
    """Return whether a term of the loss has weight in some trial."""
    from ...training.distillation.losses.base import section_paths

    name = term.path()
    values = config.space[name].end_values()[:] if name in config.space else []
    if not values or config.space[name].when:  # trials in which it is not searched use the section training
        section = training.losses.get(term.name)
        if term.argument is not None:
            values.append(training.arguments.get(name, 0))
        elif section is not None:
            values.append(section.weight)
        elif any(path in config.space for path, (owner, _) in section_paths().items() if owner == term.name):
            values.append(term.model_fields["weight"].default)
    return any(value > 0 for value in values)
