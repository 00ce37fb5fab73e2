"""The median stopping rule."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from ...training.section import NumTrials
from .base import EARLY_STOPPING, Curve, EarlyStopping, ValuesOfOthers


@EARLY_STOPPING.register
class MedianRule(EarlyStopping):
    """Stop a trial whose best value is below the median of the others at the same fraction of their schedules.

    Golovin et al., "Google Vizier", KDD 2017, section 3.2.2, on values in place of running averages.
    """

    type: Literal["median"] = "median"
    grace: float = Field(
        default=0.25,
        gt=0,
        lt=1,
        description="Fraction of a trial's schedule before which it is never stopped.",
    )
    min_trials: NumTrials = Field(
        default=4,
        description="Number of other trials that must have reached the same fraction before any is stopped.",
    )

    def stops(self, curve: Curve, others: ValuesOfOthers, sign: int) -> bool:
        """Stop a trial whose best value so far is worse than the others' median at its fraction."""
        now = curve[-1][0]
        if now < self.grace:
            return False
        reached = others(now)
        best = max(sign * value for _, value in curve)
        return len(reached) >= self.min_trials and best < float(np.median(np.multiply(sign, reached)))
