"""Early stopping of trials whose schedules differ: they are compared at an equal fraction of their schedules.

Where the number of epochs is searched, comparing trials at equal epochs favours short schedules, whose learning
rate has decayed further by then. Every report carries its trial's whole learning curve over the fraction of its
own schedule, so that nothing but the last reports is needed to go on after an interruption.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..config import Asha, MedianRule

Curve = Sequence[Sequence[float]]
"""``[[fraction of the schedule, value], ...]``, rising in the fraction."""


def value_at(curve: Curve, fraction: float) -> float | None:
    """The value at a fraction, between two epochs on the line through them; None outside of the curve."""
    if not curve or not curve[0][0] <= fraction <= curve[-1][0]:
        return None
    fractions, values = zip(*curve, strict=True)
    return float(np.interp(fraction, fractions, values))


class Readings:
    """Every trial's value at the fractions that were asked for: a decision among n trials reads no n curves."""

    def __init__(self) -> None:
        self._curves: dict[str, Curve] = {}
        self._at: dict[float, dict[str, float]] = {}

    def hear(self, trial_id: str, curve: Curve) -> None:
        """A trial's curve has grown, or is new; an earlier part of it says nothing."""
        if len(curve) < len(self._curves.get(trial_id, [])):
            return
        self._curves[trial_id] = curve
        for fraction, values in self._at.items():
            if trial_id not in values and (value := value_at(curve, fraction)) is not None:
                values[trial_id] = value

    def of_others(self, trial_id: str, fraction: float) -> list[float]:
        """The values of all other trials that have come as far as ``fraction``."""
        values = self._at.get(fraction)
        if values is None:
            read = {each: value_at(curve, fraction) for each, curve in self._curves.items()}
            values = self._at[fraction] = {each: value for each, value in read.items() if value is not None}
        return [value for each, value in values.items() if each != trial_id]


def asha_stops(rule: Asha, curve: Curve, others: Callable[[float], Sequence[float]], sign: int) -> bool:
    """Whether a trial is not among the best 1 / reduction_factor of those that have come as far.

    Decided once for each rung, ``grace * reduction_factor ** k`` of the schedule, at the first epoch that
    reaches it; the others are read off at that epoch's fraction.

    Args:
        rule: The parameters.
        curve: The trial's values until now.
        others: The other trials' values at a fraction.
        sign: 1 where more is better, -1 where less is.
    """
    now, value = curve[-1]
    before = curve[-2][0] if len(curve) > 1 else 0.0
    num_rungs = math.ceil(math.log(1 / rule.grace) / math.log(rule.reduction_factor))
    rungs = [rule.grace * rule.reduction_factor**k for k in range(num_rungs)]
    if not any(before < rung <= now for rung in rungs):
        return False
    reached = others(now)
    num_better = sum(sign * other > sign * value for other in reached)
    return num_better >= math.ceil((len(reached) + 1) / rule.reduction_factor)


def median_stops(
    rule: MedianRule, curve: Curve, others: Callable[[float], Sequence[float]], sign: int
) -> bool:
    """Whether a trial's best value so far is worse than the others' median at its fraction.

    Args:
        rule: The parameters.
        curve: The trial's values until now.
        others: The other trials' values at a fraction.
        sign: 1 where more is better, -1 where less is.
    """
    now = curve[-1][0]
    if now < rule.grace:
        return False
    reached = others(now)
    best = max(sign * value for _, value in curve)
    return len(reached) >= rule.min_trials and best < float(np.median(np.multiply(sign, reached)))
