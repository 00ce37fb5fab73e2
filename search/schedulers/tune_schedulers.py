"""Schedulers for Tune: run trials in the order of their numbers, and stop trials early by a rule."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from .base import CurveCache, EarlyStopping

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial


class InOrderScheduler(FIFOScheduler):
    """Run every trial to its end, in the order of their numbers.

    Tune's FIFO scheduler scans all past trials several times per trial, which is quadratic in their number.
    """

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """Return the first pending trial."""
        waiting = (trial for trial in tune_controller.get_live_trials() if trial.status == "PENDING")
        return min(waiting, key=lambda trial: trial.config["number"], default=None)


class EarlyStoppingScheduler(InOrderScheduler):
    """Stop trials by a rule of early stopping, in the order in which their reports arrive.

    Args:
        rule: The rule with its parameters.
        mode: ``max`` or ``min``.
    """

    def __init__(self, rule: EarlyStopping, mode: str) -> None:
        super().__init__()
        self._rule = rule
        self._sign = 1 if mode == "max" else -1
        self._curves = CurveCache()
        self._judged: dict[str, float] = {}

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Add a new trial, or one that was restored with its last report."""
        last = trial.last_result or {}
        self._read(trial.trial_id, last)
        judged = self._judged.get(trial.trial_id, 0.0)
        self._judged[trial.trial_id] = max(judged, last.get("progress", 0.0))

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        """Decide once after each epoch but the last whether to stop the trial.

        A resumed trial reports its saved epochs again; the decision uses the last of them.
        """
        self._read(trial.trial_id, result)
        if (
            result.get("failure")
            or result.get("again")
            or not self._judged.get(trial.trial_id, 0.0) < result["progress"] < 1
        ):
            return TrialScheduler.CONTINUE
        self._judged[trial.trial_id] = result["progress"]
        others = partial(self._curves.values_of_others, trial.trial_id)
        stops = self._rule.stops(result["curve"], others, self._sign)
        return TrialScheduler.STOP if stops else TrialScheduler.CONTINUE

    def _read(self, trial_id: str, result: Mapping[str, Any]) -> None:
        if result.get("curve"):
            self._curves.add(trial_id, result["curve"])

    def debug_string(self) -> str:
        """Return a description for Tune's own output."""
        return f"early stopping: {self._rule}"


def scheduler_of(rule: EarlyStopping, mode: str) -> InOrderScheduler:
    """Return Tune's scheduler for a rule of early stopping; ``mode`` is ``max`` or ``min``."""
    return EarlyStoppingScheduler(rule, mode) if rule.is_active else InOrderScheduler()
