"""The progress of a search, and the state of the running search in the driver."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ...progress import Progress, ReportProgress
from ..trial_record import State

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from ...storage.store import Store
    from ..config import SearchConfig


@dataclass(frozen=True)
class SearchProgress:
    """State of a search at one moment; its fields are the values of the ``Progress``.

    Attributes:
        num_trials: Total number of trials.
        done: Trials that ended, including failed ones.
        running: Trials that are running.
        failed: Trials that ended with a failure.
        best_value: Best metric of any epoch so far, None before the first.
        best_parameters: Searched arguments of the trial that reached it.
        best_trial_id: Id of that trial.
        pruned: Trials that were stopped early.
        waiting_for: Resources that the next trial is waiting for, such as ``1 CPU and 0.5 GPU for a trial``; None if a
            trial is running or none is waiting.
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

    def to_progress(self) -> Progress:
        """Return the progress to report: a line for the user, and the fields as values."""
        line = f"{self.done} of {self.num_trials} trials done, {self.running} running"
        for count, what in ((self.failed, "failed"), (self.pruned, "pruned")):
            line += f", {count} {what}" if count else ""
        if self.best_value is not None:
            line += f", best {self.best_value:.4f}"
        line += f"; waiting for {self.waiting_for}" if self.waiting_for else ""
        return Progress(line, {**asdict(self), "total": self.num_trials})


OnTrialEnded = Callable[["Trial", State, str | None], None]


class RunningSearch:
    """State of the running search in the driver.

    Args:
        report: Called with the progress after every change.
        store: The run store.
        experiment: Key of the search in it.
        on_trial_ended: Called for every trial that ended, with its state and, if it failed, the reason.
        config: The ``search`` section, whose number of trials and budget also apply to a restored search.
    """

    def __init__(
        self,
        report: ReportProgress | None,
        store: Store,
        experiment: str,
        on_trial_ended: OnTrialEnded | None = None,
        config: SearchConfig | None = None,
    ) -> None:
        self.report = report
        self.config = config
        self.store = store
        self.experiment = experiment
        self._on_trial_ended = on_trial_ended
        self.restored = False
        """Whether the search was restored from a snapshot, whose trials have not been processed yet."""
        self.storage_error: str | None = None
        """The storage failure that ended the search early."""
        self.num_ended: int | None = None
        """Number of trials that ended by themselves; None if Tune had nothing to do."""
        self.ended_by: str | None = None
        """Reason why the search ended before all its trials were done."""
        self.ended_before: set[str] = set()
        """Names of the trials that had ended by themselves before that."""
        self.given_up: Counter[str] = Counter()
        """How often Tune gave up on each trial that had retries left. Tune counts a worker that dies during its
        handover to the next trial twice, the second time while that trial is not running."""
        self.must_restart = False
        """Whether the search was stopped for that reason, and has to restart from its snapshot."""
        self.failure: str | None = None
        """The error message, if too many trials failed."""

    def trial_ended(self, trial: Trial, state: State, reason: str | None) -> None:
        """Report that a trial ended; ``reason`` is given if it failed."""
        if self._on_trial_ended is not None:
            self._on_trial_ended(trial, state, reason)


# Not stored in the callbacks: Tune pickles those, and a report function (a terminal, a closure) cannot be pickled.
running_searches: list[RunningSearch] = []


@contextmanager
def search_running(
    report: ReportProgress | None,
    *,
    store: Store,
    experiment: str,
    on_trial_ended: OnTrialEnded | None = None,
    config: SearchConfig | None = None,
) -> Iterator[RunningSearch]:
    """Register the search that runs inside the block, and yield its state."""
    search = RunningSearch(report, store, experiment, on_trial_ended, config)
    running_searches.append(search)
    try:
        yield search
    finally:
        running_searches.remove(search)
