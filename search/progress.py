"""How far a search is: counted in the driver at every epoch and end of a trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ray.tune import Callback

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


@dataclass(frozen=True)
class SearchProgress:
    """One moment of a search.

    Attributes:
        num_trials: Trials in all.
        done: Trials that ended, failed ones included.
        running: Trials that run now.
        failed: Trials that ended with a failure.
        best_value: Best metric of any epoch so far, None before the first.
        best_parameters: Searched arguments of the trial that reached it.
        best_trial_id: That trial.
    """

    num_trials: int
    done: int = 0
    running: int = 0
    failed: int = 0
    best_value: float | None = None
    best_parameters: dict[str, Any] = field(default_factory=dict)
    best_trial_id: str | None = None


ProgressListener = Callable[[SearchProgress], None]

# Tune pickles its callbacks into the experiment, and a listener (a terminal, a closure) cannot be pickled.
_listeners: list[ProgressListener] = []


@contextmanager
def listening(listener: ProgressListener | None) -> Iterator[None]:
    """Call ``listener`` with the progress of the search that runs inside the block."""
    if listener is None:
        yield
        return
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class ProgressCallback(Callback):
    """Feeds the listeners."""

    def __init__(self, num_trials: int, metric: str, mode: str) -> None:
        self._num_trials = num_trials
        self._metric = metric
        self._mode = mode
        self._best: tuple[float, str, dict[str, Any]] | None = None
        self._failed: set[str] = set()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """One more runs."""
        self._tell(trials)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch was reported."""
        if result.get("failure"):
            self._failed.add(trial.trial_id)
        else:
            value = result[self._metric]
            if self._best is None or _better(value, self._best[0], self._mode):
                self._best = (value, trial.trial_id, dict(trial.config["arguments"]))
        self._tell(trials)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial ended; Tune marks it so only afterwards."""
        self._tell(trials, ended=trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial was lost, and its retries with it."""
        self._failed.add(trial.trial_id)
        self._tell(trials, ended=trial)

    def _tell(self, trials: list[Trial], ended: Trial | None = None) -> None:
        value, trial_id, parameters = self._best or (None, None, {})
        progress = SearchProgress(
            num_trials=self._num_trials,
            done=sum(trial is ended or trial.status in ("TERMINATED", "ERROR") for trial in trials),
            running=sum(trial is not ended and trial.status == "RUNNING" for trial in trials),
            failed=len(self._failed),
            best_value=value,
            best_parameters=parameters,
            best_trial_id=trial_id,
        )
        for listener in _listeners:
            listener(progress)

    def get_state(self) -> dict[str, Any]:
        """Keep the best and the failed over a restore."""
        return {"best": self._best, "failed": self._failed}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take up where the interrupted search was."""
        self._best, self._failed = state["best"], state["failed"]


def _better(value: float, than: float, mode: str) -> bool:
    return value > than if mode == "max" else value < than
