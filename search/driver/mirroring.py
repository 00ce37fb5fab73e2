"""Keeps the Optuna journal of a search up to date while its trials end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from ..config import Objective, SearchConfig
from ..space.space import searched
from ..space.students import student_name
from ..study.mirror import MirroredTrial, StudyMirror
from ..trial_record import State, TrialRecord, name_of

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from .experiment import Plan


class Mirroring:
    """Passes trials on to the mirror; without one, to nobody.

    Args:
        plan: The search.
        mirror: Where they go.
    """

    def __init__(self, plan: Plan, mirror: StudyMirror | None) -> None:
        self._plan = plan
        self._mirror = mirror

    def trial_ended(self, trial: Trial, state: str, reason: str | None) -> None:
        """One ended, as Tune has it."""
        if self._mirror is None:
            return
        last, arguments = trial.last_result or {}, trial.config["arguments"]
        curve = last.get("curve", [])
        self._mirror.append(
            MirroredTrial(
                number=trial.config["number"],
                trial_id=name_of(trial),
                parameters=arguments,
                state=cast(State, state),
                values=_values(
                    cast(State, state), {**last, **self._shared(arguments)}, curve, self._plan.config
                ),
                curve=curve,
                started=_time(last, "trial_seconds"),
                ended=_time(last),
                reason=reason,
            )
        )

    def rewrite(self, records: Iterable[TrialRecord]) -> None:
        """All of them, once each, when the search has ended."""
        if self._mirror is not None:
            self._mirror.rewrite(from_record(record, self._plan.config) for record in records)

    def _shared(self, arguments: dict[str, Any]) -> dict[str, float]:
        name = student_name(arguments)
        return self._plan.students[name].metrics if name is not None else {}


def from_record(record: TrialRecord, config: SearchConfig) -> MirroredTrial:
    """A trial's record, as the mirror and the pictures take it."""
    return MirroredTrial(
        number=record.number,
        trial_id=record.trial_id,
        parameters=record.parameters,
        state=record.state,
        values=_values(record.state, record.metrics, record.curve, config),
        curve=record.curve,
        started=_time({"timestamp": record.ended, "trial_seconds": record.seconds}, "trial_seconds"),
        ended=_time({"timestamp": record.ended}),
        reason=record.reason,
    )


def _values(
    state: State, metrics: dict[str, Any], curve: list[list[float]], config: SearchConfig
) -> list[float] | None:
    if state == "failed" or not curve:
        return None
    return [_best(metrics, curve, each, config.metric) for each in config.all_objectives]


def _best(metrics: dict[str, Any], curve: list[list[float]], objective: Objective, metric: str) -> float:
    """The metric's best epoch; of another objective what was reported."""
    if objective.metric != metric:
        return metrics[objective.metric]
    return (max if objective.mode == "max" else min)(value for _, value in curve)


def _time(result: dict[str, Any], earlier_by: str | None = None) -> datetime | None:
    at = result.get("saved_at", result.get("timestamp"))
    if at is None:
        return None
    return datetime.fromtimestamp(at - (result.get(earlier_by, 0.0) if earlier_by else 0.0), UTC)


@contextmanager
def mirrored(plan: Plan, key: str | None) -> Iterator[Mirroring]:
    """Mirror the search that runs inside the block into the journal ``key``."""
    parameters = searched(plan.config)
    if key is None or not parameters:
        yield Mirroring(plan, None)
        return
    mirror = StudyMirror(
        plan.settings.store,
        key,
        plan.settings.experiment.replace("/", "-"),
        parameters,
        [each.direction for each in plan.config.all_objectives],
        [each.metric for each in plan.config.all_objectives],
    )
    try:
        yield Mirroring(plan, mirror)
    finally:
        mirror.close()
