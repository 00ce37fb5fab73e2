"""How far a search is, and who is told of it in the driver."""

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
TrialListener = Callable[["Trial", State, str | None], None]


class Watch:
    """What the driver sees of the search that runs.

    Args:
        listener: Told of every change.
        store: The run store.
        experiment: Key of the search in it.
        on_trial_ended: Told of every trial that ended, with its state and the reason of one that failed.
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
        """The search goes on from a snapshot, whose trials were not seen yet."""
        self.storage_error: str | None = None
        """Why the search ended early: the storage could not be reached."""
        self.num_ended: int | None = None
        """Trials that came to their own end; None when Tune had nothing to do."""
        self.ended_by: str | None = None
        """What ended the search before all its trials were done."""
        self.own_end: set[str] = set()
        """The trials that had ended by themselves then."""
        self.given_up: Counter[str] = Counter()
        """How often Tune called a trial failed although it may be tried again: a worker that dies as it is handed over
        to the next trial is counted twice, and the second time finds that trial not running."""
        self.goes_on = False
        """The search was ended because of that, and goes on from its snapshot."""
        self.failure: str | None = None
        """The summary, when too many trials failed."""

    def trial_ended(self, trial: Trial, state: State, reason: str | None) -> None:
        """A trial ended, ``finished``, ``pruned`` or ``failed`` with a reason."""
        if self._on_trial_ended is not None:
            self._on_trial_ended(trial, state, reason)


# Tune pickles its callbacks into the experiment, and a listener (a terminal, a closure) cannot be pickled.
watches: list[Watch] = []


@contextmanager
def watching(
    listener: ProgressListener | None,
    *,
    store: Store,
    experiment: str,
    on_trial_ended: TrialListener | None = None,
) -> Iterator[Watch]:
    """Call the listeners of the search that runs inside the block."""
    watch = Watch(listener, store, experiment, on_trial_ended)
    watches.append(watch)
    try:
        yield watch
    finally:
        watches.remove(watch)
