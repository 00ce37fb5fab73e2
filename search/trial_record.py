"""The record of a trial, the names of trials, and the rule which epochs can be selected."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

_MOST_DIGITS = 9  # in a trial's number
State = Literal["finished", "pruned", "failed"]


def trial_name(number: int) -> str:
    """Return a trial's name; its directories have the same name, so that a resumed search finds its files."""
    return f"{number:04}"


def is_trial_name(name: str) -> bool:
    """Return whether a name has the form that ``trial_name`` returns."""
    return re.fullmatch(r"\d{4,}", name) is not None


def find_trial(given: str, names: Iterable[str]) -> str | None:
    """Find a trial by a name or number given by the user; None if there is no such trial."""
    wanted = {given, trial_name(int(given))} if given.isdecimal() and len(given) <= _MOST_DIGITS else {given}
    return next((name for name in names if name in wanted), None)


def name_of(trial: Trial) -> str:
    """Return the name of one of Tune's trials."""
    return trial_name(trial.config["number"])


def is_selectable(metrics: Mapping[str, Any]) -> bool:
    """Return whether an epoch can be selected; before pruning is complete, its model is not sparse enough."""
    return metrics.get("progress", 1.0) >= metrics.get("counts_from", 0.0)


def selectable_values(metrics: Mapping[str, Any]) -> list[float]:
    """Return the values of a reported curve, restricted to epochs that can be selected."""
    start = metrics.get("counts_from", 0.0)
    return [value for progress, value in metrics.get("curve", []) if progress >= start]


class TrialRecord(BaseModel):
    """One trial that has ended.

    Attributes:
        trial_id: Name of the trial, ``trial_name(number)``.
        number: Position in the order of suggestions, from 0.
        parameters: Searched and fixed arguments.
        state: ``finished``, ``pruned`` if it was stopped early, or ``failed``.
        metrics: Metrics that its best epoch reported (while the search runs, its last epoch), and those that all trials
            of its student share.
        best_epoch: Number of that epoch, from 1; None if no epoch was finished, and while the search runs.
        checkpoint: Key of that epoch's checkpoint, for ``download_checkpoint``; it is not a published folder.
        reason: Why it failed or was stopped early.
        seconds: Wall time of its training, evaluation and saving.
        curve: ``[fraction of the schedule, value of the metric]`` of every epoch.
        ended: Time at which its last epoch was saved, in seconds since 1970; without an epoch, the time at which it
            reported its failure; None if it reported nothing.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    trial_id: str
    number: int
    parameters: dict[str, Any]
    state: State
    metrics: dict[str, Any] = Field(default_factory=dict)
    best_epoch: int | None = None
    checkpoint: str | None = None
    reason: str | None = None
    seconds: float = 0.0
    curve: list[list[float]] = Field(default_factory=list)
    ended: float | None = None

    @property
    def started(self) -> float | None:
        """Start time of its training, in seconds since 1970; None if its end is unknown."""
        return None if self.ended is None else self.ended - self.seconds

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values, which ``model_validate`` reads back."""
        return self.model_dump()
