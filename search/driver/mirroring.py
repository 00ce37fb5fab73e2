"""Keep the Optuna journal of a search up to date while its trials end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..space.space import searched
from ..space.students import shared_metrics
from ..study.mirror import StudyMirror
from ..trial_record import State, TrialRecord, name_of

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from .experiment import SearchSetup


class Mirroring:
    """Adds the trials of a search to its journal; without a mirror, it does nothing.

    Args:
        setup: The search.
        mirror: The journal, or None.
    """

    def __init__(self, setup: SearchSetup, mirror: StudyMirror | None) -> None:
        self._setup = setup
        self._mirror = mirror

    def trial_ended(self, trial: Trial, state: State, reason: str | None) -> None:
        """Add one of Tune's trials, which has just ended."""
        if self._mirror is not None:
            self._mirror.append(self._record(trial, state, reason))

    def rewrite(self, records: Iterable[TrialRecord]) -> None:
        """Replace the journal's trials with those of the ended search."""
        if self._mirror is not None:
            self._mirror.rewrite(records)

    def _record(self, trial: Trial, state: State, reason: str | None) -> TrialRecord:
        """Return a record of a trial from Tune's data: that of its last epoch, which may not be the best."""
        last, arguments = trial.last_result or {}, trial.config["arguments"]
        return TrialRecord(
            trial_id=name_of(trial),
            number=trial.config["number"],
            parameters=arguments,
            state=state,
            metrics={**last, **shared_metrics(arguments, self._setup.students)},
            reason=reason,
            seconds=last.get("trial_seconds", 0.0),
            curve=last.get("curve", []),
            ended=last.get("saved_at", last.get("timestamp")),
        )


@contextmanager
def mirrored(setup: SearchSetup, key: str | None) -> Iterator[Mirroring]:
    """Mirror the search that runs inside the block into the journal ``key``."""
    parameters = searched(setup.config)
    if key is None or not parameters:
        yield Mirroring(setup, None)
        return
    mirror = StudyMirror(
        setup.settings.store,
        key,
        setup.settings.experiment.replace("/", "-"),
        parameters,
        setup.config.all_objectives,
    )
    try:
        yield Mirroring(setup, mirror)
    finally:
        mirror.close()
