"""Asynchronous successive halving."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from .base import EARLY_STOPPING, Curve, EarlyStopping, ValuesOfOthers


@EARLY_STOPPING.register
class Asha(EarlyStopping):
    """Asynchronous successive halving, at equal fractions of the trials' schedules.

    Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020, algorithm 1 in its stopping
    form: at each rung only the best 1 / reduction_factor of the trials that reached it continue.
    """

    type: Literal["asha"] = "asha"
    grace: float = Field(
        default=0.25,
        gt=0,
        lt=1,
        description="Fraction of a trial's schedule before which it is never stopped.",
    )
    reduction_factor: float = Field(
        default=3.0,
        gt=1,
        le=10_000,
        description="One in this many trials continues at each rung; each rung is this many times later than the "
        "previous one.",
    )

    def stops(self, curve: Curve, others: ValuesOfOthers, sign: int) -> bool:
        """Stop a trial that is not among the best 1 / reduction_factor of those that have reached the same rung.

        The decision is made once per rung, at ``grace * reduction_factor ** k`` of the schedule, at the first epoch
        that reaches it; the other trials are compared by their values at that epoch's fraction.
        """
        now, value = curve[-1]
        before = curve[-2][0] if len(curve) > 1 else 0.0
        num_rungs = math.ceil(math.log(1 / self.grace) / math.log(self.reduction_factor))
        rungs = [self.grace * self.reduction_factor**k for k in range(num_rungs)]
        if not any(before < rung <= now for rung in rungs):
            return False
        reached = others(now)
        num_better = sum(sign * other > sign * value for other in reached)
        return num_better >= math.ceil((len(reached) + 1) / self.reduction_factor)
