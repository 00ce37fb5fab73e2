"""The search space: what may be searched, and the specification's ranges as Optuna distributions."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..training.config import TrainingConfig
from .config import Choice, Fixed, FloatRange, IntRange, Parameter, SearchConfig

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# Metric that every epoch reports -> the mode in which it is better.
METRICS = {
    "validation_accuracy": "max",
    "validation_in_scope_accuracy": "max",
    "validation_oos_recall": "max",
    "validation_loss": "min",
}


def check_space(config: SearchConfig, training: TrainingConfig) -> None:
    """Refuse a search that no trial could run, before Ray is started.

    Raises:
        ConfigError: Names that are no training arguments, values that an argument does not take, a metric
            that is not reported; all faults in one message, with the nearest valid name.
    """
    from ..training.arguments import argument_names

    known = argument_names()
    faults = [_unknown(f"search.space.{name}", name, known) for name in config.space if name not in known]
    if not faults:
        faults += _refused_values(config, training)
    if config.metric not in METRICS:
        faults.append(_unknown("search.metric", config.metric, METRICS))
    elif METRICS[config.metric] != config.mode:
        better = "lower" if METRICS[config.metric] == "min" else "higher"
        faults.append(
            f"search.mode: {config.mode!r} given, but a {better} {config.metric} is better; "
            f"set search.mode to {METRICS[config.metric]!r}"
        )
    if faults:
        raise ConfigError("\n".join(faults))


def fixed_values(config: SearchConfig) -> dict[str, Any]:
    """Arguments that have the same value in every trial: fixed ones, and ranges that hold a single value."""
    values = {name: _single_value(parameter) for name, parameter in config.space.items()}
    return {name: value for name, value in values.items() if value is not None}


def distributions(config: SearchConfig) -> dict[str, BaseDistribution]:
    """Optuna's distribution of every argument that is searched, by name; empty when all values are fixed."""
    fixed = fixed_values(config)
    return {name: _distribution(value) for name, value in config.space.items() if name not in fixed}


def _distribution(parameter: Parameter) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(parameter, FloatRange):
        return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
    if isinstance(parameter, IntRange):
        return IntDistribution(parameter.low, parameter.high, log=parameter.log)
    assert isinstance(parameter, Choice), f"{parameter} has one value"
    return CategoricalDistribution(parameter.values)


def _single_value(parameter: Parameter) -> Any:
    values = _end_values(parameter)
    return values[0] if all(value == values[0] for value in values) else None


def _end_values(parameter: Parameter) -> list[Any]:
    if isinstance(parameter, Fixed):
        return [parameter.value]
    return parameter.values if isinstance(parameter, Choice) else [parameter.low, parameter.high]


def _refused_values(config: SearchConfig, training: TrainingConfig) -> list[str]:
    """Try the two ends of every range, and every choice, in the arguments of a trial."""
    if reason := _refusal(training, {}):
        return [reason]
    ends = {name: list(dict.fromkeys(_end_values(parameter))) for name, parameter in config.space.items()}
    faults = [
        f"search.space.{name}: {value!r} is refused: {reason}"
        for name, values in ends.items()
        for value in values
        if (reason := _refusal(training, {name: value}))
    ]
    together = None if faults else _refusal(training, {name: values[0] for name, values in ends.items()})
    return [f"search.space: {together}"] if together else faults


def _refusal(training: TrainingConfig, values: dict[str, Any]) -> str | None:
    from ..training.arguments import arguments_from_config

    try:
        arguments = arguments_from_config(training, ".", **values, use_cpu=True)
    except (ValueError, TypeError) as error:
        return str(error).strip().splitlines()[0]
    for name, value in values.items():
        # The short names stand for numbers, as all arguments do whose default is one.
        default = getattr(type(arguments), name, 0.0)
        if type(default) in (int, float) and not isinstance(value, int | float):
            return "it needs a number"
    return None if arguments.num_train_epochs > 0 else "it needs a number above 0"


def _unknown(where: str, name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
    kind = "metric" if where == "search.metric" else "training argument"
    return f"{where}: {name!r} is not a {kind}; {hint}"
