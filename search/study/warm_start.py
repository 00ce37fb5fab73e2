"""Warm start: use an earlier run's finished trials in a new study, or explain why they do not fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ..config import SearchConfig
from ..parameters import NotAcceptedError, Parameter, as_category
from ..space.space import fixed_values, searched
from ..trial_record import TrialRecord
from .frozen_trial import frozen_trial

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_NUM_SHOWN = 3  # values of one argument that a message lists


def known_trials(records: Iterable[TrialRecord], config: SearchConfig) -> list[FrozenTrial]:
    """Convert the finished trials of an earlier run for ``study.add_trials``, in their order.

    Trials outside of the space are skipped, since it may have become narrower since ``check_fits``.

    Args:
        records: Trials with every metric of the search's objectives and constraints.
        config: The search that learns from them.
    """
    space, fixed = searched(config), fixed_values(config)
    found = []
    for record in finished(records):
        given = record.parameters
        trial = frozen_trial(
            record,
            space,
            [record.metrics[each.metric] for each in config.all_objectives],
            {str(each): each.excess(record.metrics) for each in config.constraints},
        )
        same = all(as_category(given[name]) == as_category(fixed[name]) for name in fixed if name in given)
        if same and set(trial.params) == set(space) & set(given):
            found.append(trial)
    return found


def check_fits(
    records: Sequence[TrialRecord],
    space: Mapping[str, Parameter],
    metric_names: Sequence[str],
    run_id: str,
    *,
    fixed: Mapping[str, Any] | None = None,
    conditional: Collection[str] = (),
) -> None:
    """Reject an earlier run whose trials the new study cannot learn from.

    Args:
        records: The earlier run's trials.
        space: The arguments that are searched now, by name.
        metric_names: Current objectives and constraints.
        run_id: The earlier run, for messages.
        fixed: Arguments with the same value in every trial now; None compares only the arguments that a run searched.
        conditional: Current arguments that a trial may lack.

    Raises:
        ConfigError: The earlier run has no finished trial, searched or set other arguments, or has a value outside of
            its current range, or a metric is missing. All faults are in one message, with remedies.
    """
    done = finished(records)
    where = f"search.warm_start: run {run_id!r}"
    if not done:
        raise ConfigError(
            f"{where} has no finished trial among its {len(records)}; choose a run whose search has some"
        )
    given: dict[str, list[Any]] = {}
    for record in done:
        for name, value in record.parameters.items():
            given.setdefault(name, []).append(value)
    faults = [
        *(_searched_fault(name, each, given, name in conditional) for name, each in space.items()),
        *(
            _other_fault(name, values, len(done), fixed)
            for name, values in given.items()
            if name not in space
        ),
        *(_missing_fault(name, value, given, name in conditional) for name, value in (fixed or {}).items()),
        *(_metric_fault(name, done) for name in metric_names),
    ]
    found = [f"{where}: {fault}" for fault in faults if fault]
    if found:
        raise ConfigError("\n".join(found))


def finished(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that completed their schedule, in their order."""
    return [record for record in records if record.state == "finished"]


def _searched_fault(
    name: str, parameter: Parameter, given: Mapping[str, list[Any]], may_lack: bool
) -> str | None:
    if name not in given:
        if may_lack:
            return None
        return (
            f"{name} is searched now, but none of its trials has it; remove search.space.{name}, or choose a run "
            f"that searched it"
        )

    def is_outside(value: Any) -> bool:
        try:
            parameter.fit(value)
        except NotAcceptedError:
            return True
        return False

    outside = _distinct(given[name], is_outside)
    if not outside:
        return None
    return (
        f"{name} was {_shown(outside)}, outside of the current space; {parameter.accepted()}; widen "
        f"search.space.{name}, or choose another run"
    )


def _other_fault(
    name: str, values: list[Any], num_trials: int, fixed: Mapping[str, Any] | None
) -> str | None:
    """Return the fault of an argument of the earlier run that is not searched now, or None."""
    distinct = _distinct(values)
    if name in (fixed or {}):
        expected = fixed[name] if fixed else None
        others = _distinct(values, lambda value: as_category(value) != as_category(expected))
        if not others:
            return None
        return (
            f"{name} was {_shown(others)}, but is {expected!r} in every trial now; accepted: {expected!r}; search "
            f"{name} over a range that contains both, or choose another run"
        )
    if len(distinct) == 1 and (fixed is None or len(values) < num_trials):
        return None  # set under a condition, and so determined by the arguments of that condition
    verb = "was searched there" if len(distinct) > 1 else "was set there"
    return (
        f"{name} {verb}, with {_shown(distinct)}, but is not in the space now; accepted: only arguments of "
        f"search.space; add search.space.{name}, or choose another run"
    )


def _missing_fault(name: str, value: Any, given: Mapping[str, list[Any]], may_lack: bool) -> str | None:
    if name in given or may_lack:
        return None
    return (
        f"{name} is {value!r} in every trial now, but was not set there; remove search.space.{name}, or choose a "
        f"run that has it"
    )


def _metric_fault(name: str, done: Sequence[TrialRecord]) -> str | None:
    def has(record: TrialRecord) -> bool:
        value = record.metrics.get(name)
        return isinstance(value, int | float) and math.isfinite(value)

    lacking = [record for record in done if not has(record)]
    if not lacking:
        return None
    first = lacking[0]
    numbers = sorted(key for key, value in first.metrics.items() if isinstance(value, int | float))
    return (
        f"{name} is required now, but {len(lacking)} of its {len(done)} finished trials have no value of it "
        f"(trial {first.trial_id} has {', '.join(numbers) or 'none'}); choose another metric, or another run"
    )


def _distinct(values: Iterable[Any], keep: Callable[[Any], bool] = lambda _: True) -> list[Any]:
    return list({repr(value): value for value in values if keep(value)}.values())


def _shown(values: Sequence[Any]) -> str:
    more = f" and {len(values) - _NUM_SHOWN} more" if len(values) > _NUM_SHOWN else ""
    return ", ".join(repr(value) for value in values[:_NUM_SHOWN]) + more
