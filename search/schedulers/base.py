"""Early stopping: the registry of its rules, and trials' values at equal fractions of their schedules.

Where the number of epochs is searched, comparing trials at equal epochs favours short schedules, whose learning
rate has decayed further by then. Every report carries its trial's whole learning curve over the fraction of its
own schedule, so that nothing but the last reports is needed to continue after an interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...training.registry import SectionRegistry
from ...training.section import Section

Curve = Sequence[Sequence[float]]
"""``[[fraction of the schedule, value], ...]``, rising in the fraction."""

ValuesOfOthers = Callable[[float], Sequence[float]]
"""The values of all other trials that have come as far as a fraction."""


class EarlyStopping(Section):
    """A rule that ends trials before their last epoch, with its parameters: a key ``type`` with its name, and more.

    It is asked once after each epoch but the last.
    """

    @property
    def is_active(self) -> bool:
        """Whether any trial may be stopped."""
        return True

    def stops(self, curve: Curve, others: ValuesOfOthers, sign: int) -> bool:
        """Decide whether a trial ends after its latest epoch.

        Args:
            curve: The trial's values until now.
            others: The other trials' values at a fraction.
            sign: 1 where more is better, -1 where less is.
        """
        raise NotImplementedError


EARLY_STOPPING: SectionRegistry[EarlyStopping] = SectionRegistry("type")


def value_at(curve: Curve, fraction: float) -> float | None:
    """Return the value at a fraction, between two epochs on the line through them; None outside of the curve."""
    if not curve or not curve[0][0] <= fraction <= curve[-1][0]:
        return None
    fractions, values = zip(*curve, strict=True)
    return float(np.interp(fraction, fractions, values))


class Readings:
    """Every trial's value at the fractions that were asked for: a decision among n trials reads no n curves."""

    def __init__(self) -> None:
        self._curves: dict[str, Curve] = {}
        self._at: dict[float, dict[str, float]] = {}

    def add(self, trial_id: str, curve: Curve) -> None:
        """Take a trial's curve that is new or has grown; ignore an earlier part of it."""
        if len(curve) < len(self._curves.get(trial_id, [])):
            return
        self._curves[trial_id] = curve
        for fraction, values in self._at.items():
            if trial_id not in values and (value := value_at(curve, fraction)) is not None:
                values[trial_id] = value

    def of_others(self, trial_id: str, fraction: float) -> list[float]:
        """Return the values of all other trials that have come as far as ``fraction``."""
        values = self._at.get(fraction)
        if values is None:
            read = {each: value_at(curve, fraction) for each, curve in self._curves.items()}
            values = self._at[fraction] = {each: value for each, value in read.items() if value is not None}
        return [value for each, value in values.items() if each != trial_id]
