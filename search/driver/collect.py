"""Collect the results of a search: a record of each trial, and the selected trial."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ...errors import RunFailedError, StorageError
from ..selection import choose_trial
from ..space.students import shared_metrics
from ..trial.checkpoints import SavedEpoch, find_checkpoint, saved_epochs
from ..trial.integrity import model_is_intact
from ..trial_record import State, TrialRecord
from .callbacks import describe_error

if TYPE_CHECKING:
    from ray.tune import Result

    from .experiment import SearchEnd, SearchSetup


@dataclass(frozen=True)
class SearchOutcome:
    """Result of a search.

    Attributes:
        trials: All trials, in the order of their suggestions.
        best: The selected trial.
        front: Ids of the trials on the Pareto front.
        choice: Why this trial was selected, if its metric alone did not decide.
        ended_by: Reason why the search ended before all its trials were done; None if it did not.
    """

    trials: list[TrialRecord]
    best: TrialRecord
    front: list[str] = field(default_factory=list)
    choice: str = ""
    ended_by: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "trials": [trial.to_json() for trial in self.trials],
            "best": self.best.to_json(),
            "front": self.front,
            "choice": self.choice,
            "ended_by": self.ended_by,
        }


def collect(ended: SearchEnd, setup: SearchSetup) -> SearchOutcome:
    """Read every trial's record from the store, and select one with an intact checkpoint.

    Raises:
        RunFailedError: No trial finished; the message has the reason of the first failed trial.
        StorageError: The storage does not respond, or lacks a trial's files.
    """
    damaged: set[str] = set()
    while True:
        outcome = _outcome(ended, setup, damaged)
        checkpoint = outcome.best.checkpoint
        assert checkpoint is not None, "the best trial has finished an epoch, and so saved one"
        if model_is_intact(setup.settings.store, checkpoint):
            return outcome
        damaged.add(checkpoint)


def _outcome(ended: SearchEnd, setup: SearchSetup, damaged: set[str]) -> SearchOutcome:
    records = (_record(result, ended, setup, damaged) for result in ended.grid)
    trials = sorted((each for each in records if each is not None), key=lambda trial: trial.number)
    if not any(trial.checkpoint is not None and trial.state != "failed" for trial in trials):
        failed = [trial for trial in trials if trial.state == "failed"]
        first = f"; the first failed trial: {failed[0].reason}" if failed else ""
        if ended.ended_by is not None:
            raise RunFailedError(
                f"the search ended before any trial had finished an epoch: {ended.ended_by}{first}"
            )
        what = "the only trial" if len(trials) == 1 else f"all {len(trials)} trials"
        raise RunFailedError(f"{what} failed{first}")
    choice = choose_trial(trials, setup.config)
    return SearchOutcome(trials, choice.best, choice.front, choice.text, ended.ended_by)


def _record(result: Result, ended: SearchEnd, setup: SearchSetup, damaged: set[str]) -> TrialRecord | None:
    """Return a trial's record; None if it had not started when the search was ended."""
    store, experiment, config = setup.settings.store, setup.settings.experiment, setup.config
    trial_id = PurePosixPath(result.path).name
    # The arguments of a trial that never reported are only in its file.
    given = result.config or store.read_json(f"{experiment}/{trial_id}/params.json")
    if given is None and (ended.ended_by is not None or ended.cut_short is not None):
        return None
    if given is None:
        raise StorageError(
            f"storage {store}: {experiment}/{trial_id}/params.json is missing; resume with `distiltune resume RUN`"
        )
    # Read from the store, since Tune's bookkeeping is some seconds old after a restore.
    epochs = saved_epochs(store, f"{experiment}/{trial_id}")
    whole = [each for each in epochs if each.key not in damaged]
    best, last = find_checkpoint(whole, config.metric, config.mode), find_checkpoint(epochs)
    cut_short_by = None if trial_id in ended.ended_before else ended.ended_by
    state, reason = _end_of(result, last, (ended.cut_short or {}).get(trial_id, cut_short_by))
    if epochs and not whole:
        state, reason = "failed", "its checkpoints are damaged"
    shared = shared_metrics(given["arguments"], setup.students)
    return TrialRecord(
        trial_id=trial_id,
        number=given["number"],
        parameters=given["arguments"],
        state=state,
        metrics={name: value for name, value in {**best.metrics, **shared}.items() if name != "curve"}
        if best
        else {},
        best_epoch=best.epoch if best else None,
        checkpoint=best.key if best else None,
        reason=reason,
        seconds=last.metrics["trial_seconds"] if last else 0.0,
        curve=last.metrics["curve"] if last else [],
        ended=last.metrics["saved_at"] if last else (result.metrics or {}).get("timestamp"),
    )


def _end_of(result: Result, last: SavedEpoch | None, cut_short_by: str | None) -> tuple[State, str | None]:
    failure = (result.metrics or {}).get("failure")
    if failure:
        return "failed", failure
    if result.error is not None:
        return "failed", describe_error(getattr(result.error, "cause", None) or result.error)
    progress = last.metrics["progress"] if last else 0.0
    if progress >= 1:
        return "finished", None
    if cut_short_by is not None:
        return "pruned", f"the search ended: {cut_short_by}"
    if last is None:
        return "failed", "the trial ended without a checkpoint"
    return "pruned", f"stopped early after {progress:.0%} of its schedule"
