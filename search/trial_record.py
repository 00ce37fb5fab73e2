"""The record of a trial, from the driver to the report; names of trials; which epochs count."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

_MOST_DIGITS = 9  # of a trial's number
State = Literal["finished", "pruned", "failed"]


def trial_name(number: int) -> str:
    """The name of a trial, also of its directories: a search that is resumed finds by it what a trial left."""
    return f"{number:04}"


def is_trial_name(name: str) -> bool:
    """Whether ``trial_name`` gives such names."""
    return re.fullmatch(r"\d{4,}", name) is not None


def find_trial(given: str, names: Iterable[str]) -> str | None:
    """The one of these names that a person means by a name or a number; None where there is none."""
    wanted = {given, trial_name(int(given))} if given.isdecimal() and len(given) <= _MOST_DIGITS else {given}
    return next((name for name in names if name in wanted), None)


def name_of(trial: Trial) -> str:
    """The name of one of Tune's trials."""
    return trial_name(trial.config["number"])


def counts(metrics: Mapping[str, Any]) -> bool:
    """Whether an epoch that reported this may be chosen: until its trial is pruned, it is another, denser model."""
    return metrics.get("progress", 1.0) >= metrics.get("counts_from", 0.0)


def counted(metrics: Mapping[str, Any]) -> list[float]:
    """The values of the curve that an epoch reported, of those epochs that count."""
    start = metrics.get("counts_from", 0.0)
    return [value for progress, value in metrics.get("curve", []) if progress >= start]


class TrialRecord(BaseModel):
    """One trial that has ended.

    Attributes:
        trial_id: Its name, ``trial_name(number)``.
        number: Its place in the order of suggestions, from 0.
        parameters: Searched and fixed arguments.
        state: ``finished``; ``pruned`` when it was stopped early; ``failed``.
        metrics: Everything that its best epoch reported, and what its student's trials share. While the search
            runs: its last epoch.
        best_epoch: That epoch, from 1; None when no epoch was finished, and while the search runs.
        checkpoint: Key of that epoch's checkpoint, which ``download_checkpoint`` copies; it is no published
            folder.
        reason: Why it failed or was stopped.
        seconds: Wall time of its training, evaluation and saving.
        curve: ``[fraction of the schedule, value of the metric]`` of every epoch.
        ended: When its last epoch was saved, in seconds since 1970; of a trial without one, when it reported its
            failure; None when it reported nothing.
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
        """When its training began, in seconds since 1970; None where its end is unknown."""
        return None if self.ended is None else self.ended - self.seconds

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values, which ``model_validate`` reads back."""
        return self.model_dump()
