"""Tune callbacks in the driver: count trials, check budget and storage, and report progress."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ray import cloudpickle
from ray.exceptions import RayTaskError
from ray.tune import Callback, PlacementGroupFactory, Stopper

from ...errors import RunFailedError, StorageError
from ..config import SearchConfig
from ..space.space import searched
from ..study.searcher import restored_searchers
from ..trial_record import State, is_selectable, name_of, selectable_values
from .budget import BudgetMonitor
from .progress import SearchProgress, running_searches

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

_UNREADABLE = (
    "storage: the snapshot of the search could not be read; retry with `distiltune resume RUN`; if it fails again, "
    "`distiltune --verbose resume RUN` shows the cause; the run was not changed"
)
_PATIENCE_S = 10.0  # a worker takes some seconds to start
_LOOK_EVERY_S = 2.0


class BudgetStopper(Stopper):
    """Ends the experiment once a running search has a reason to; these are global, since Tune pickles the stopper."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stop a single trial."""
        return False

    def stop_all(self) -> bool:
        """Return whether the search is over."""
        return any(search.ended_by is not None for search in running_searches)


class ProgressCallback(Callback):
    """Report progress, and end a search whose budget is used up or whose storage is unavailable.

    Args:
        config: The ``search`` section.
        num_trials: Total number of trials.
    """

    def __init__(self, config: SearchConfig, num_trials: int) -> None:
        self._num_trials = num_trials
        self._metric = config.metric
        self._mode = config.mode
        self._budget = BudgetMonitor(config)
        self._best: tuple[float, str, dict[str, Any]] | None = None
        self._running: set[str] = set()
        self._ended: dict[str, State] = {}
        self._num_pruned = 0
        self._failures: dict[str, str] = {}
        self._idle_since: float | None = None
        self._waiting_for: str | None = None
        self._looked = -_LOOK_EVERY_S
        self._lacks = False

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Process restored trials; raise if Tune could not read its snapshot, since it would start over."""
        for search in running_searches:
            if search.restored and not trials:
                search.storage_error = _UNREADABLE
                raise StorageError(search.storage_error)
            if search.restored:
                if search.config is not None:
                    self._continue_with(search.config)
                self._restore(trials)
                search.num_ended = len(self._ended)
            search.restored = False

    def _continue_with(self, config: SearchConfig) -> None:
        """Adopt the number of trials and the budget of a search that was extended since the snapshot."""
        if searched(config):  # otherwise it has one trial
            self._num_trials = config.num_trials
            for searcher in restored_searchers:
                searcher.extend(config.num_trials)
        self._budget.limit(config)

    def _restore(self, trials: list[Trial]) -> None:
        while restored_searchers:
            restored_searchers.pop().reconcile(trials)
        for trial in trials:
            last = trial.last_result or {}
            for value in selectable_values(last):
                self._compare(value, trial)
            if last.get("failure"):
                self._failures[name_of(trial)] = last["failure"]
            if trial.status in ("TERMINATED", "ERROR"):
                self._end(trial, self._state_of(trial))
                for search in running_searches:
                    search.trial_ended(trial, self._ended[name_of(trial)], self._failures.get(name_of(trial)))
            else:  # a failed trial may be retried
                self._ended.pop(name_of(trial), None)
                self._failures.pop(name_of(trial), None)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Check the budget, and report when trials start or stop waiting for resources while none runs."""
        self._end_by_budget()
        idle = not self._running and len(trials) > len(self._ended)
        if not idle:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = time.monotonic()
        long = self._idle_since is not None and time.monotonic() - self._idle_since > _PATIENCE_S
        pending = next((trial for trial in trials if trial.status == "PENDING"), None) if long else None
        waiting_for = _needs(pending) if pending and self._lacks_place() else None
        if waiting_for != self._waiting_for:
            self._waiting_for = waiting_for
            self._report()

    def _lacks_place(self) -> bool:
        """Return whether Ray has no place for the next trial; a trial whose worker is starting already has one."""
        if time.monotonic() - self._looked > _LOOK_EVERY_S:
            self._looked, self._lacks = time.monotonic(), has_pending_places()
        return self._lacks

    def _end_by_budget(self) -> None:
        failure = self._budget.too_many_failed(Counter(self._failures.values()))
        ended_by = self._budget.ended_by(self._best[0] if self._best else None)
        for search in running_searches:
            if failure is not None:
                # Raised, since a stop would mark the search as done: on resume, trials that failed because of a
                # lost worker or a full disk are retried, and the remaining ones follow.
                search.failure = failure
                raise RunFailedError(failure)
            left = len(self._ended) < self._num_trials
            if left and search.ended_by is None and ended_by is not None:
                search.ended_by, search.ended_before = ended_by, set(self._ended)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Count and report a trial that started."""
        self._running.add(name_of(trial))
        self._report()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Process a report of an epoch or of a failure."""
        if result.get("failure"):
            self._failures[name_of(trial)] = result["failure"]
        elif is_selectable(result):
            self._compare(result[self._metric], trial)
        self._report()

    def _compare(self, value: float, trial: Trial) -> None:
        if self._best is None or _better(value, self._best[0], self._mode):
            self._best = (value, name_of(trial), dict(trial.config["arguments"]))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Process the end of a trial; Tune updates the trial's status only afterwards."""
        self._trial_ended(trial, self._state_of(trial))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Process a trial that Tune gave up on; restart the search if the trial has retries left."""
        _end_without_storage(trial)
        for search in running_searches:
            if (
                trial.num_failures <= trial.max_failures
                and search.given_up[name_of(trial)] < trial.max_failures
            ):
                search.given_up[name_of(trial)] += 1
                search.must_restart = True
                # Raised before the searcher is notified, so that the snapshot does not contain the failure.
                raise RunFailedError(f"trial {name_of(trial)} was given up too early")
        self._failures[name_of(trial)] = describe_error(_error_of(trial))
        self._trial_ended(trial, "failed")

    def _trial_ended(self, trial: Trial, state: State) -> None:
        self._running.discard(name_of(trial))
        self._end(trial, state)
        if state != "failed":
            self._budget.trial_ended(self._best[0] if self._best else None)
        for search in running_searches:
            search.trial_ended(trial, state, self._failures.get(name_of(trial)))
        self._report()

    def _end(self, trial: Trial, state: State) -> None:
        before = self._ended.get(name_of(trial))
        self._ended[name_of(trial)] = state
        self._num_pruned += (state == "pruned") - (before == "pruned")

    def _state_of(self, trial: Trial) -> State:
        last = trial.last_result or {}
        if last.get("failure") or trial.status == "ERROR":
            return "failed"
        return "pruned" if last.get("progress", 1.0) < 1 else "finished"

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Process a trial that was lost and is retried."""
        self._running.discard(name_of(trial))
        _end_without_storage(trial)

    def _report(self) -> None:
        value, trial_id, parameters = self._best or (None, None, {})
        progress = SearchProgress(
            num_trials=self._num_trials,
            done=len(self._ended),
            running=len(self._running),
            failed=len(self._failures),
            pruned=self._num_pruned,
            best_value=value,
            best_parameters=parameters,
            best_trial_id=trial_id,
            waiting_for=self._waiting_for,
        )
        for search in running_searches:
            search.num_ended = len(self._ended)
            if search.report is not None:
                search.report(progress.to_progress())

    def get_state(self) -> dict[str, Any]:
        """Return the state that cannot be restored from the trials."""
        return {"budget": self._budget.get_state(), "failures": self._failures}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore the state of an interrupted search."""
        self._budget.set_state(state["budget"])
        self._failures = state["failures"]


def _better(value: float, than: float, mode: str) -> bool:
    return value > than if mode == "max" else value < than


def has_pending_places() -> bool:
    """Return whether Ray is still looking for resources that were requested for a trial."""
    from ray.util import placement_group_table

    states = {group.get("state") for group in placement_group_table().values()} - {"REMOVED"}
    return states != {"CREATED"}


def _needs(trial: Trial) -> str:
    resources = cast(PlacementGroupFactory, trial.placement_group_factory).required_resources
    return " and ".join(f"{value:g} {name}" for name, value in resources.items() if value) + " for a trial"


def _end_without_storage(trial: Trial) -> None:
    """End the search with an error if a trial failed because the storage stayed unavailable.

    Tune would retry that trial and start further ones in vain. If the search ends here, the failure is not in Tune's
    snapshot, and when the search is resumed, its trials resume from their last epochs.
    """
    error = _error_of(trial)
    if isinstance(error, StorageError):
        for search in running_searches:
            search.storage_error = " ".join(str(error).split())
            raise StorageError(search.storage_error)


def describe_error(error: BaseException | None) -> str:
    """Return the type and first line of an exception that a trial raised."""
    if error is None:
        return "lost for an unknown reason"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _error_of(trial: Trial) -> Exception | None:
    """Return the exception that a trial raised; ``Trial.get_pickled_error`` would access the storage."""
    if trial.pickled_error_file is None or not Path(trial.pickled_error_file).is_file():
        return None
    error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    return cast(Exception, error.cause) if isinstance(error, RayTaskError) else error
