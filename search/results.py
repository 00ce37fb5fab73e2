"""What the trials found: one record a trial, and the best epoch of the best one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from ..errors import RunFailedError, StorageError
from ..storage.store import Store
from .checkpoints import SavedEpoch, find_checkpoint, saved_epochs

if TYPE_CHECKING:
    from ray.tune import Result, ResultGrid


@dataclass(frozen=True)
class TrialRecord:
    """One trial.

    Attributes:
        trial_id: Its name, also of its directories.
        number: Its place in the order of suggestions, from 0.
        parameters: Searched and fixed arguments.
        state: ``finished``, or ``failed`` with a reason.
        metrics: Everything that its best epoch reported.
        best_epoch: That epoch, from 1; None when no epoch was finished.
        checkpoint: Key of that epoch's checkpoint, which ``download_checkpoint`` copies; Tune wrote it, and it
            is no published folder.
        reason: Why it failed.
        seconds: Wall time of its training, evaluation and saving.
    """

    trial_id: str
    number: int
    parameters: dict[str, Any]
    state: Literal["finished", "failed"]
    metrics: dict[str, Any] = field(default_factory=dict)
    best_epoch: int | None = None
    checkpoint: str | None = None
    reason: str | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class SearchOutcome:
    """All trials in the order of their suggestions, and the best of them."""

    trials: list[TrialRecord]
    best: TrialRecord

    def to_json(self) -> dict[str, Any]:
        """``{"trials": [...], "best": {...}}`` as JSON values."""
        return {"trials": [trial.to_json() for trial in self.trials], "best": self.best.to_json()}


def collect(
    grid: ResultGrid, store: Store, experiment: str, metric: str, mode: Literal["max", "min"]
) -> SearchOutcome:
    """Read every trial's record from the store, and choose: best metric, the earlier trial of equals.

    Raises:
        RunFailedError: No trial finished; with the first one's reason.
        StorageError: The storage does not answer, or lacks what Tune wrote of a trial.
    """
    trials = sorted(
        (_record(result, store, experiment, metric, mode) for result in grid), key=lambda trial: trial.number
    )
    finished = [trial for trial in trials if trial.state == "finished"]
    if not finished:
        first = f": {trials[0].reason}" if trials else ""
        what = "the only trial" if len(trials) == 1 else f"all {len(trials)} trials"
        raise RunFailedError(f"{what} failed; the first one's reason{first}")
    sign = 1 if mode == "max" else -1
    best = max(finished, key=lambda trial: (sign * trial.metrics[metric], -trial.number))
    return SearchOutcome(trials, best)


def _record(result: Result, store: Store, experiment: str, metric: str, mode: str) -> TrialRecord:
    trial_id = PurePosixPath(result.path).name
    # A trial that never reported is known by its file alone.
    config = result.config or store.read_json(f"{experiment}/{trial_id}/params.json")
    if config is None:
        raise StorageError(
            f"storage {store}: {experiment}/{trial_id}/params.json is not there; go on with `distiltune resume RUN`"
        )
    # From the store, not from Tune's bookkeeping: that is some seconds old after a restore.
    epochs = saved_epochs(store, f"{experiment}/{trial_id}")
    best, last = find_checkpoint(epochs, metric, mode), find_checkpoint(epochs)
    reason = _reason(result, best)
    return TrialRecord(
        trial_id=trial_id,
        number=config["number"],
        parameters=config["arguments"],
        state="failed" if reason else "finished",
        metrics=best.metrics if best else {},
        best_epoch=best.epoch if best else None,
        checkpoint=best.key if best else None,
        reason=reason,
        seconds=last.metrics["trial_seconds"] if last else 0.0,
    )


def _reason(result: Result, checkpoint: SavedEpoch | None) -> str | None:
    failure = (result.metrics or {}).get("failure")
    if failure:
        return failure
    if result.error is not None:
        cause = getattr(result.error, "cause", None) or result.error
        lines = str(cause).strip().splitlines()
        return f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__
    return None if checkpoint else "the trial ended without a checkpoint"
