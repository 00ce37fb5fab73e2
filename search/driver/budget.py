"""The budget of a search: limits that end it before all of its trials are done."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from ..config import SearchConfig


class BudgetMonitor:
    """Track the use of a search's budget, across interruptions.

    Args:
        config: The ``search`` section.
    """

    def __init__(self, config: SearchConfig) -> None:
        self._sign = 1 if config.mode == "max" else -1
        self._metric = config.metric
        self.limit(config)
        self._seconds_before = 0.0
        self._began = time.monotonic()
        self._num_without_better = 0
        self._best_at_last_end: float | None = None

    def limit(self, config: SearchConfig) -> None:
        """Set the limits; time and trials used under a former budget count towards the new one."""
        self._budget = config.budget
        self._max_failed = max_failed(config)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Tune pickles its callbacks, and the clock of another boot or machine is meaningless here.
        self.__dict__.update(state, _began=time.monotonic())

    @property
    def seconds(self) -> float:
        """Seconds of searching so far, earlier attempts included."""
        return self._seconds_before + time.monotonic() - self._began

    def ended_by(self, best: float | None) -> str | None:
        """Return the reason why the search has to end now, or None.

        Args:
            best: Best value of the metric so far.
        """
        limit, target = self._budget.wall_time_s, self._budget.target_value
        if limit is not None and self.seconds >= limit:
            return f"its limit of {limit:g} s is reached"
        if target is not None and best is not None and self._sign * best >= self._sign * target:
            return f"{self._metric} {best:.4f} reached its target {target:g}"
        patience = self._budget.patience
        if patience is not None and self._num_without_better >= patience:
            return f"{self._num_without_better} consecutive trials did not improve {self._metric}"
        return None

    def too_many_failed(self, failures: Counter[str]) -> str | None:
        """Return the error message if more trials failed than allowed, else None."""
        if failures.total() <= self._max_failed:
            return None
        reasons = "; ".join(f"{count} x {reason}" for reason, count in failures.most_common(3))
        return (
            f"{failures.total()} trials failed, search.max_failed_trials allows {self._max_failed}: {reasons}; fix "
            f"the causes, or allow more: distiltune resume RUN --set search.max_failed_trials=N"
        )

    def trial_ended(self, best: float | None) -> None:
        """Count a trial that ended without a failure towards the patience."""
        better = best is not None and (
            self._best_at_last_end is None or self._sign * best > self._sign * self._best_at_last_end
        )
        self._num_without_better = 0 if better else self._num_without_better + 1
        self._best_at_last_end = best

    def get_state(self) -> dict[str, Any]:
        """Return the state for Tune's snapshot."""
        return {
            "seconds": self.seconds,
            "num_without_better": self._num_without_better,
            "best_at_last_end": self._best_at_last_end,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore the state of an interrupted search; the time since then does not count."""
        self._began = time.monotonic()
        self._seconds_before = state["seconds"]
        self._num_without_better = state["num_without_better"]
        self._best_at_last_end = state["best_at_last_end"]


def max_failed(config: SearchConfig) -> int:
    """Return how many trials may fail."""
    given = config.max_failed_trials
    return given if given is not None else max(3, config.num_trials // 4)
