"""The boundary to Optuna: a trial's record as Optuna's own structure."""

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
    """Convert a trial's record to Optuna's structure.

    Arguments that are not searched, and values outside of their range, become user attributes; so do
    ``trial_id``, ``number`` (which a study counts anew) and ``reason``.

    Args:
        record: The trial.
        space: The searched arguments, by name; a conditional one may be missing in the trial.
        values: One for each objective, such as ``reached_values`` gives; dropped where the trial failed.
        constraints: By how much it misses each bound, 0 or below where it keeps it.

    Raises:
        ValueError: The trial is finished and has no value, or one that is not a number.
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
    """Return what a trial reached in each objective; None of a failed one, and of one without an epoch.

    Of the first objective that is the best value of its curve, epochs before the end of its pruning included; of
    the others what the record holds.
    """
    if record.state == "failed" or not record.curve:
        return None
    first = objectives[0]
    best = (max if first.mode == "max" else min)(value for _, value in record.curve)
    return [best if each.metric == first.metric else record.metrics[each.metric] for each in objectives]


def _times(record: TrialRecord) -> tuple[datetime, datetime]:
    """Its begin and end; the present where they are unknown."""
    if record.started is None or record.ended is None:
        now = datetime.now(UTC)
        return now, now
    return datetime.fromtimestamp(record.started, UTC), datetime.fromtimestamp(record.ended, UTC)
