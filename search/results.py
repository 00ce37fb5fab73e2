"""What the trials found: one record a trial, and the best epoch of the best one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import RunFailedError
from .checkpoints import find_checkpoint, read_epoch

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
        checkpoint: Directory of that epoch's checkpoint, which ``from_pretrained`` loads.
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


def collect(grid: ResultGrid, metric: str, mode: Literal["max", "min"]) -> SearchOutcome:
    """Read every trial's record from its directory, and choose: best metric, the earlier trial of equals.

    Raises:
        RunFailedError: No trial finished; with the first one's reason.
    """
    trials = sorted((_record(result, metric, mode) for result in grid), key=lambda trial: trial.number)
    finished = [trial for trial in trials if trial.state == "finished"]
    if not finished:
        first = f": {trials[0].reason}" if trials else ""
        what = "the only trial" if len(trials) == 1 else f"all {len(trials)} trials"
        raise RunFailedError(f"{what} failed; the first one's reason{first}")
    sign = 1 if mode == "max" else -1
    best = max(finished, key=lambda trial: (sign * trial.metrics[metric], -trial.number))
    return SearchOutcome(trials, best)


def _record(result: Result, metric: str, mode: str) -> TrialRecord:
    directory = Path(result.path)
    config = _config(directory)
    # From the disk, not from Tune's bookkeeping: that is some seconds old after a restore.
    checkpoint = find_checkpoint(directory.glob("checkpoint_*"), metric, mode)
    epoch = read_epoch(checkpoint) if checkpoint else {}
    last = find_checkpoint(directory.glob("checkpoint_*"))
    reason = _reason(result, checkpoint)
    return TrialRecord(
        trial_id=directory.name,
        number=config["number"],
        parameters=config["arguments"],
        state="failed" if reason else "finished",
        metrics=epoch.get("metrics", {}),
        best_epoch=epoch.get("epoch"),
        checkpoint=str(checkpoint) if checkpoint else None,
        reason=reason,
        seconds=read_epoch(last)["metrics"]["trial_seconds"] if last else 0.0,
    )


def _config(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "params.json").read_text(encoding="utf-8"))


def _reason(result: Result, checkpoint: Path | None) -> str | None:
    failure = (result.metrics or {}).get("failure")
    if failure:
        return failure
    if result.error is not None:
        cause = getattr(result.error, "cause", None) or result.error
        lines = str(cause).strip().splitlines()
        return f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__
    return None if checkpoint else "the trial ended without a checkpoint"
