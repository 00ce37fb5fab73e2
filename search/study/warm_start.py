"""A former run's finished trials for a new study, and the reasons why they do not fit it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ..parameters import NotAcceptedError, Parameter, as_category

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from ..config import Constraint

_NUM_SHOWN = 3  # values of one argument in a message


def trials_from(
    records: Sequence[Mapping[str, Any]],
    space: Mapping[str, Parameter],
    metric_names: Sequence[str],
    run_id: str,
    *,
    fixed: Mapping[str, Any] | None = None,
    conditional: Collection[str] = (),
    constraints: Sequence[Constraint] = (),
) -> list[FrozenTrial]:
    """The finished trials of a former run, complete with the values that they reached.

    Args:
        records: Of the former run's trials, as ``TrialRecord.to_json`` gives them.
        space: The arguments that are searched now, by name.
        metric_names: Of the objectives now.
        run_id: The former run, for messages and the trials' user attribute ``run``.
        fixed: Arguments that every trial has now; None compares only what either run searched.
        conditional: Arguments of now that a trial may be without.
        constraints: Bounds of now, which the former trials keep or not.

    Returns:
        Trials for ``study.add_trials``, in the former run's order; arguments that are not searched are left out.

    Raises:
        ConfigError: As ``check_fits``.
    """
    import optuna

    needed = list(dict.fromkeys((*metric_names, *(each.metric for each in constraints))))
    check_fits(records, space, needed, run_id, fixed=fixed, conditional=conditional)
    found = []
    for record in _finished(records):
        values = record["parameters"]
        searched = {name: each.fit(values[name]) for name, each in space.items() if name in values}
        found.append(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE,
                values=[float(record["metrics"][name]) for name in metric_names],
                params=searched,
                distributions={name: space[name].distribution() for name in searched},
                user_attrs={"trial_id": record["trial_id"], "run": run_id},
                constraints={str(each): each.excess(record["metrics"]) for each in constraints},
            )
        )
    return found


def refitted(known: Iterable[FrozenTrial], space: Mapping[str, Parameter]) -> list[FrozenTrial]:
    """Former trials in a space that has become narrower since; without those that it no longer holds."""
    import optuna

    found = []
    for trial in known:
        try:
            searched = {name: space[name].fit(value) for name, value in trial.params.items()}
        except NotAcceptedError:
            continue
        found.append(
            optuna.trial.create_trial(
                state=trial.state,
                values=trial.values,
                params=searched,
                distributions={name: space[name].distribution() for name in searched},
                user_attrs=trial.user_attrs,
                constraints=trial.constraints,
            )
        )
    return found


def check_fits(
    records: Sequence[Mapping[str, Any]],
    space: Mapping[str, Parameter],
    metric_names: Sequence[str],
    run_id: str,
    *,
    fixed: Mapping[str, Any] | None = None,
    conditional: Collection[str] = (),
) -> None:
    """Refuse a former run whose trials the new study cannot learn from.

    Args:
        records: See ``trials_from``, as all others.
        space: The arguments that are searched now.
        metric_names: Of the objectives and constraints now.
        run_id: The former run.
        fixed: Arguments that every trial has now.
        conditional: Arguments of now that a trial may be without.

    Raises:
        ConfigError: No trial of it is finished; it searched other arguments, or set others; a value is outside
            of its range now; it has not measured a metric. All faults in one message, with remedies.
    """
    finished = _finished(records)
    where = f"search.warm_start: run {run_id!r}"
    if not finished:
        raise ConfigError(
            f"{where} has no finished trial among its {len(records)}; name a run whose search has finished ones"
        )
    given: dict[str, list[Any]] = {}
    for record in finished:
        for name, value in record["parameters"].items():
            given.setdefault(name, []).append(value)
    faults = [
        *(_searched_fault(name, each, given, name in conditional) for name, each in space.items()),
        *(
            _other_fault(name, values, len(finished), fixed)
            for name, values in given.items()
            if name not in space
        ),
        *(_missing_fault(name, value, given, name in conditional) for name, value in (fixed or {}).items()),
        *(_metric_fault(name, finished) for name in metric_names),
    ]
    found = [f"{where}: {fault}" for fault in faults if fault]
    if found:
        raise ConfigError("\n".join(found))


def _finished(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [record for record in records if record["state"] == "finished"]


def _searched_fault(
    name: str, parameter: Parameter, given: Mapping[str, list[Any]], may_lack: bool
) -> str | None:
    if name not in given:
        if may_lack:
            return None
        return (
            f"{name} is searched now, and none of its trials has it; take search.space.{name} out, "
            "or name a run that searched it"
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
        f"{name} was {_shown(outside)}, outside of the space now; {parameter.accepted()}; "
        f"widen search.space.{name}, or name another run"
    )


def _other_fault(
    name: str, values: list[Any], num_trials: int, fixed: Mapping[str, Any] | None
) -> str | None:
    """What is wrong with an argument of the former run that is not searched now."""
    distinct = _distinct(values)
    if name in (fixed or {}):
        expected = fixed[name] if fixed else None
        others = _distinct(values, lambda value: as_category(value) != as_category(expected))
        if not others:
            return None
        return (
            f"{name} was {_shown(others)}, and is {expected!r} in every trial now; accepted: {expected!r}; "
            f"search {name} over a range that holds both, or name another run"
        )
    if len(distinct) == 1 and (fixed is None or len(values) < num_trials):
        return None  # set under a condition, which the arguments of the condition speak for
    verb = "was searched there" if len(distinct) > 1 else "was set there"
    return (
        f"{name} {verb}, with {_shown(distinct)}, and is not named now; accepted: only what search.space names; "
        f"add search.space.{name}, or name another run"
    )


def _missing_fault(name: str, value: Any, given: Mapping[str, list[Any]], may_lack: bool) -> str | None:
    if name in given or may_lack:
        return None
    return (
        f"{name} is {value!r} in every trial now, and was not set there; take search.space.{name} out, "
        "or name a run that has it"
    )


def _metric_fault(name: str, finished: Sequence[Mapping[str, Any]]) -> str | None:
    def has(record: Mapping[str, Any]) -> bool:
        value = record["metrics"].get(name)
        return isinstance(value, int | float) and math.isfinite(value)

    lacking = [record for record in finished if not has(record)]
    if not lacking:
        return None
    first = lacking[0]
    numbers = sorted(key for key, value in first["metrics"].items() if isinstance(value, int | float))
    return (
        f"{name} is asked for now, and {len(lacking)} of its {len(finished)} finished trials have no value of it "
        f"(trial {first['trial_id']} has {', '.join(numbers) or 'none'}); choose another metric, or another run"
    )


def _distinct(values: Iterable[Any], keep: Callable[[Any], bool] = lambda _: True) -> list[Any]:
    return list({repr(value): value for value in values if keep(value)}.values())


def _shown(values: Sequence[Any]) -> str:
    more = f" and {len(values) - _NUM_SHOWN} more" if len(values) > _NUM_SHOWN else ""
    return ", ".join(repr(value) for value in values[:_NUM_SHOWN]) + more
