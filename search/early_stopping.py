"""Early stopping of trials whose schedules differ: they are compared at an equal fraction of their schedules.

Where the number of epochs is searched, comparing trials at equal epochs favours short schedules, whose learning
rate has decayed further by then. Every report carries its trial's whole learning curve over the fraction of its
own schedule, so that nothing but the last reports is needed to go on after an interruption.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from .config import Asha, MedianRule

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial

Curve = Sequence[Sequence[float]]
"""``[[fraction of the schedule, value], ...]``, rising in the fraction."""


def value_at(curve: Curve, fraction: float) -> float | None:
    """The value at a fraction, between two epochs on the line through them; None outside of the curve."""
    if not curve or not curve[0][0] <= fraction <= curve[-1][0]:
        return None
    fractions, values = zip(*curve, strict=True)
    return float(np.interp(fraction, fractions, values))


def asha_stops(rule: Asha, curve: Curve, others: Sequence[Curve], sign: int) -> bool:
    """Whether a trial is not among the best 1 / reduction_factor of those that have come as far.

    Decided once for each rung, ``grace * reduction_factor ** k`` of the schedule, at the first epoch that
    reaches it; the others are read off at that epoch's fraction.

    Args:
        rule: The parameters.
        curve: The trial's values until now.
        others: Those of the other trials.
        sign: 1 where more is better, -1 where less is.
    """
    now, value = curve[-1]
    before = curve[-2][0] if len(curve) > 1 else 0.0
    num_rungs = math.ceil(math.log(1 / rule.grace) / math.log(rule.reduction_factor))
    rungs = [rule.grace * rule.reduction_factor**k for k in range(num_rungs)]
    if not any(before < rung <= now for rung in rungs):
        return False
    reached = [found for each in others if (found := value_at(each, now)) is not None]
    num_better = sum(sign * other > sign * value for other in reached)
    return num_better >= math.ceil((len(reached) + 1) / rule.reduction_factor)


def median_stops(rule: MedianRule, curve: Curve, others: Sequence[Curve], sign: int) -> bool:
    """Whether a trial's best value so far is worse than the others' median at its fraction.

    Args:
        rule: The parameters.
        curve: The trial's values until now.
        others: Those of the other trials.
        sign: 1 where more is better, -1 where less is.
    """
    now = curve[-1][0]
    if now < rule.grace:
        return False
    reached = [sign * found for each in others if (found := value_at(each, now)) is not None]
    best = max(sign * value for _, value in curve)
    return len(reached) >= rule.min_trials and best < float(np.median(reached))


class EarlyStopping(FIFOScheduler):
    """Stops trials in Tune by one of the rules above, in the order in which their reports come.

    Args:
        rule: Which one, with its parameters.
        mode: ``max`` or ``min``.
    """

    def __init__(self, rule: Asha | MedianRule, mode: str) -> None:
        super().__init__()
        self._rule = rule
        self._sign = 1 if mode == "max" else -1
        self._curves: dict[str, Curve] = {}

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """A new trial, or one that was restored with its last report."""
        self._hear(trial.trial_id, trial.last_result or {})

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        """Decide after an epoch; the last one ends by itself."""
        self._hear(trial.trial_id, result)
        if result.get("failure") or result["progress"] >= 1:
            return TrialScheduler.CONTINUE
        others = [curve for trial_id, curve in self._curves.items() if trial_id != trial.trial_id]
        stops = self._stops(self._curves[trial.trial_id], others)
        return TrialScheduler.STOP if stops else TrialScheduler.CONTINUE

    def _stops(self, curve: Curve, others: Sequence[Curve]) -> bool:
        if isinstance(self._rule, Asha):
            return asha_stops(self._rule, curve, others, self._sign)
        return median_stops(self._rule, curve, others, self._sign)

    def _hear(self, trial_id: str, result: Mapping[str, Any]) -> None:
        if result.get("curve"):
            self._curves[trial_id] = result["curve"]

    def debug_string(self) -> str:
        """For Tune's own output."""
        return f"early stopping: {self._rule}"
