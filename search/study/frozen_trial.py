"""Convert trial records to Optuna's trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..config import Objective
from ..parameters import NotAcceptedError, Parameter
from ..trial_record import TrialRecord

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def frozen_trial(
    record: TrialRecord,
    space: Mapping[str, Parameter],
    values: Sequence[float] | None,
    constraints: Mapping[str, float] | None = None,
) -> FrozenTrial:
    """Convert a trial's record to an Optuna trial.

    Arguments that are not searched, and values outside of their range, become user attributes; so do
    ``trial_id``, ``number`` (since a study renumbers trials) and ``reason``.

    Args:
        record: The trial.
        space: The searched arguments, by name; a conditional one may be missing in the trial.
        values: One for each objective, such as from ``reached_values``; ignored if the trial failed.
        constraints: By how much the trial violates each constraint, 0 or less if it meets it.

    Raises:
        ValueError: The trial is finished, and has no value or one that is not a number.
    """
    import optuna
    from optuna.trial import TrialState

    states = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    searched, others = {}, {}
    for name, value in record.parameters.items():
        try:
            searched[name] = space[name].fit(value)
        except (KeyError, NotAcceptedError):
            others[name] = value
    named = {"trial_id": record.trial_id, "number": record.number}
    reason = {} if record.reason is None else {"reason": record.reason}
    frozen = optuna.trial.create_trial(
        state=states[record.state],
        values=None if values is None or record.state == "failed" else [float(value) for value in values],
        params=searched,
        distributions={name: space[name].distribution() for name in searched},
        user_attrs={**others, **named, **reason},
        intermediate_values={
            round(100 * progress): float(value) for progress, value in record.curve if math.isfinite(value)
        },
        constraints=None if constraints is None else dict(constraints),
    )
    frozen.number = record.number
    frozen.datetime_start, frozen.datetime_complete = _times(record)
    return frozen


def reached_values(record: TrialRecord, objectives: Sequence[Objective]) -> list[float] | None:
    """Return a trial's value in each objective; None if it failed or has no epoch.

    For the first objective this is the best value of its curve, including epochs before pruning is complete; for the
    others, the value in the record.
    """
    if record.state == "failed" or not record.curve:
        return None
    first = objectives[0]
    best = (max if first.mode == "max" else min)(value for _, value in record.curve)
    return [best if each.metric == first.metric else record.metrics[each.metric] for each in objectives]


def _times(record: TrialRecord) -> tuple[datetime, datetime]:
    """Return a trial's start and end time; the current time if they are unknown."""
    if record.started is None or record.ended is None:
        now = datetime.now(UTC)
        return now, now
    return datetime.fromtimestamp(record.started, UTC), datetime.fromtimestamp(record.ended, UTC)
