"""How far a search is: counted in the driver at every epoch and end of a trial."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ray import cloudpickle
from ray.exceptions import RayTaskError
from ray.tune import Callback, PlacementGroupFactory
from ray.tune.logger import JsonLoggerCallback

from ..errors import StorageError

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
        pruned: Trials that were stopped early.
        waiting_for: What the next trial needs and the cluster has not had for a while, None when a trial runs
            or none waits; for example ``1 CPU and 0.5 GPU for a trial``.
    """

    num_trials: int
    done: int = 0
    running: int = 0
    failed: int = 0
    best_value: float | None = None
    best_parameters: dict[str, Any] = field(default_factory=dict)
    best_trial_id: str | None = None
    pruned: int = 0
    waiting_for: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The moment as JSON values."""
        return asdict(self)


ProgressListener = Callable[[SearchProgress], None]


class CheckpointUnreadableError(StorageError):
    """Tune could not see whether a trial's checkpoint is there."""


class Watch:
    """What the driver sees of the search that runs.

    Args:
        listener: Told of every change.
        restored: The search goes on from a snapshot.
        retry_s: Seconds that the storage is tried again.
    """

    def __init__(self, listener: ProgressListener | None, restored: bool, retry_s: float) -> None:
        self.listener = listener
        self.restored = restored
        self.storage_error: str | None = None
        """Why the search ended early: the storage could not be reached."""
        self._retry_s = retry_s
        self._unreadable_since: float | None = None

    def ends(self, error: Exception | None, again: bool) -> bool:
        """Whether a trial's error ends the search; ``again`` says that Tune would try the trial again."""
        if not isinstance(error, StorageError):
            return False
        if not again or not isinstance(error, CheckpointUnreadableError):
            return True
        self._unreadable_since = self._unreadable_since or time.monotonic()
        return time.monotonic() - self._unreadable_since >= self._retry_s

    def readable(self) -> None:
        """A trial reported: the storage works."""
        self._unreadable_since = None


# Tune pickles its callbacks into the experiment, and a listener (a terminal, a closure) cannot be pickled.
_watches: list[Watch] = []

_UNREADABLE = (
    "storage: the snapshot of the search could not be read; go on with `distiltune resume RUN`, and if it ends "
    "like this again, delete the search's folder to begin the search anew"
)
_PATIENCE_S = 10.0  # a worker takes some seconds to start


@contextmanager
def watching(listener: ProgressListener | None, *, restored: bool, retry_s: float) -> Iterator[Watch]:
    """Call ``listener`` with the progress of the search that runs inside the block."""
    watch = Watch(listener, restored, retry_s)
    _watches.append(watch)
    try:
        yield watch
    finally:
        _watches.remove(watch)


class ResultFiles(JsonLoggerCallback):
    """Tune's ``result.json`` and ``params.json``, closed also when the search ends early."""

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Close what is open."""
        for trial in trials:
            self.log_trial_end(trial)


class ProgressCallback(Callback):
    """Tells the watch, and ends a search whose storage is away."""

    def __init__(self, num_trials: int, metric: str, mode: str) -> None:
        self._num_trials = num_trials
        self._metric = metric
        self._mode = mode
        self._best: tuple[float, str, dict[str, Any]] | None = None
        self._failed: set[str] = set()
        self._idle_since: float | None = None
        self._waiting_for: str | None = None

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Refuse to begin anew where a search should go on: Tune does so when it cannot read its snapshot."""
        for watch in _watches:
            if watch.restored and not trials:
                watch.storage_error = _UNREADABLE
                raise StorageError(watch.storage_error)
            watch.restored = False

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Tell when trials wait and none runs, and when that is over."""
        pending = [trial for trial in trials if trial.status == "PENDING"]
        idle = bool(pending) and not any(trial.status == "RUNNING" for trial in trials)
        if not idle:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = time.monotonic()
        long = self._idle_since is not None and time.monotonic() - self._idle_since > _PATIENCE_S
        waiting_for = _needs(pending[0]) if long else None
        if waiting_for != self._waiting_for:
            self._waiting_for = waiting_for
            self._tell(trials)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """One more runs."""
        self._tell(trials)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch was reported."""
        for watch in _watches:
            watch.readable()
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
        _end_without_storage(trial)
        self._failed.add(trial.trial_id)
        self._tell(trials, ended=trial)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial was lost, and is tried again."""
        _end_without_storage(trial, again=True)

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
            waiting_for=self._waiting_for,
        )
        for watch in _watches:
            if watch.listener is not None:
                watch.listener(progress)

    def get_state(self) -> dict[str, Any]:
        """Keep the best and the failed over a restore."""
        return {"best": self._best, "failed": self._failed}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take up where the interrupted search was."""
        self._best, self._failed = state["best"], state["failed"]


def _better(value: float, than: float, mode: str) -> bool:
    return value > than if mode == "max" else value < than


def _needs(trial: Trial) -> str:
    resources = cast(PlacementGroupFactory, trial.placement_group_factory).required_resources
    return " and ".join(f"{value:g} {name}" for name, value in resources.items() if value) + " for a trial"


def _end_without_storage(trial: Trial, again: bool = False) -> None:
    """Raise what ends the search when a trial has tried the storage for as long as it should.

    Tune would try that trial again, and begin the next ones, all in vain. Ended so, nothing of it is in Tune's
    snapshot: the trials go on from their last epochs when the search does.
    """
    error = _error_of(trial)
    for watch in _watches:
        if watch.ends(error, again):
            watch.storage_error = " ".join(str(error).split())
            raise StorageError(watch.storage_error)


def _error_of(trial: Trial) -> Exception | None:
    """What a trial raised; not by ``Trial.get_pickled_error``, which asks the storage."""
    if trial.pickled_error_file is None or not Path(trial.pickled_error_file).is_file():
        return None
    error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    if not isinstance(error, RayTaskError):
        return error
    # Tune looks after the checkpoint before the trial's own code does, and does not wait for the storage.
    if ".restore()" in str(error) and isinstance(error.cause, OSError):
        return CheckpointUnreadableError(
            f"storage: {error.cause}; repair it, then go on with `distiltune resume RUN`"
        )
    return error.cause
