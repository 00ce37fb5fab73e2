"""Early stopping: the registry of rules, and trials' values at equal fractions of their schedules.

If the number of epochs is searched, comparing trials at equal epochs favours short schedules, whose learning rate has
decayed further by then. Every report contains its trial's whole learning curve over the fraction of its own schedule,
so only the last reports are needed to resume after an interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...training.section import Section
from ...training.section_registry import SectionRegistry

Curve = Sequence[Sequence[float]]
"""``[[fraction of the schedule, value], ...]``, in ascending order of the fraction."""

ValuesOfOthers = Callable[[float], Sequence[float]]
"""Returns the values, at a fraction, of all other trials that have reached it."""


class EarlyStopping(Section):
    """A rule that stops trials before their last epoch: a key ``type`` with its name, and its parameters.

    It is evaluated once after each epoch except the last.
    """

    @property
    def is_active(self) -> bool:
        """Whether the rule can stop any trial."""
        return True

    def stops(self, curve: Curve, others: ValuesOfOthers, sign: int) -> bool:
        """Return whether a trial is stopped after its latest epoch.

        Args:
            curve: The trial's values so far.
            others: Function that returns the other trials' values at a fraction.
            sign: 1 if higher is better, -1 if lower is better.
        """
        raise NotImplementedError


EARLY_STOPPING: SectionRegistry[EarlyStopping] = SectionRegistry("type")


def value_at(curve: Curve, fraction: float) -> float | None:
    """Return the value at a fraction, linearly interpolated between epochs; None outside of the curve."""
    if not curve or not curve[0][0] <= fraction <= curve[-1][0]:
        return None
    fractions, values = zip(*curve, strict=True)
    return float(np.interp(fraction, fractions, values))


class CurveCache:
    """Cache of every trial's value at requested fractions, so that a decision need not read all curves again."""

    def __init__(self) -> None:
        self._curves: dict[str, Curve] = {}
        self._at: dict[float, dict[str, float]] = {}

    def add(self, trial_id: str, curve: Curve) -> None:
        """Add a trial's curve if it is new or has grown; ignore a shorter one."""
        if len(curve) < len(self._curves.get(trial_id, [])):
            return
        self._curves[trial_id] = curve
        for fraction, values in self._at.items():
            if trial_id not in values and (value := value_at(curve, fraction)) is not None:
                values[trial_id] = value

    def values_of_others(self, trial_id: str, fraction: float) -> list[float]:
        """Return the values at ``fraction`` of all other trials that have reached it."""
        values = self._at.get(fraction)
        if values is None:
            read = {each: value_at(curve, fraction) for each, curve in self._curves.items()}
            values = self._at[fraction] = {each: value for each, value in read.items() if value is not None}
        return [value for each, value in values.items() if each != trial_id]
