"""The progress of a search, and its listeners in the driver."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ..trial_record import State

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from ...storage.store import Store


@dataclass(frozen=True)
class SearchProgress:
    """Progress of a search at one moment.

    Attributes:
        num_trials: Trials in all.
        done: Trials that ended, failed ones included.
        running: Trials that are running.
        failed: Trials that ended with a failure.
        best_value: Best metric of any epoch so far, None before the first.
        best_parameters: Searched arguments of the trial that reached it.
        best_trial_id: Id of that trial.
        pruned: Trials that were stopped early.
        waiting_for: Resources that the next trial has been waiting for, None when a trial is running or none is
            waiting; for example ``1 CPU and 0.5 GPU for a trial``.
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
        """Return the fields as JSON values."""
        return asdict(self)


ProgressListener = Callable[[SearchProgress], None]
TrialListener = Callable[["Trial", State, str | None], None]


class Watch:
    """State of the running search in the driver.

    Args:
        listener: Called with the progress after every change.
        store: The run store.
        experiment: Key of the search in it.
        on_trial_ended: Called for every trial that ended, with its state and, if it failed, the reason.
    """

    def __init__(
        self,
        listener: ProgressListener | None,
        store: Store,
        experiment: str,
        on_trial_ended: TrialListener | None = None,
    ) -> None:
        self.listener = listener
        self.store = store
        self.experiment = experiment
        self._on_trial_ended = on_trial_ended
        self.restored = False
        """Whether the search was restored from a snapshot, whose trials have not been processed yet."""
        self.storage_error: str | None = None
        """The storage failure that ended the search early."""
        self.num_ended: int | None = None
        """Number of trials that ended by themselves; None when Tune had nothing to do."""
        self.ended_by: str | None = None
        """What ended the search before all its trials were done."""
        self.own_end: set[str] = set()
        """Names of the trials that had ended by themselves before that."""
        self.given_up: Counter[str] = Counter()
        """How often Tune gave up a trial that had retries left: it counts a worker that dies while it is handed over to
        the next trial twice, and the second time that trial is not running."""
        self.goes_on = False
        """Whether the search was stopped for that reason, and has to restart from its snapshot."""
        self.failure: str | None = None
        """The error message, when too many trials failed."""

    def trial_ended(self, trial: Trial, state: State, reason: str | None) -> None:
        """Notify the listener that a trial ended; ``reason`` is given if it failed."""
        if self._on_trial_ended is not None:
            self._on_trial_ended(trial, state, reason)


# Not in the callbacks: Tune pickles them, and a listener (a terminal, a closure) cannot be pickled.
watches: list[Watch] = []


@contextmanager
def watching(
    listener: ProgressListener | None,
    *,
    store: Store,
    experiment: str,
    on_trial_ended: TrialListener | None = None,
) -> Iterator[Watch]:
    """Register the listeners of the search that runs inside the block."""
    watch = Watch(listener, store, experiment, on_trial_ended)
    watches.append(watch)
    try:
        yield watch
    finally:
        watches.remove(watch)
