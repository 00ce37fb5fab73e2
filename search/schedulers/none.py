"""No early stopping."""

from __future__ import annotations

from typing import Literal

from .base import EARLY_STOPPING, Curve, EarlyStopping, ValuesOfOthers


@EARLY_STOPPING.register
class NoEarlyStopping(EarlyStopping):
    """Train every trial to its end."""

    type: Literal["none"] = "none"

    @property
    def is_active(self) -> bool:
        """Whether the rule can stop any trial: always False."""
        return False

    def stops(self, curve: Curve, others: ValuesOfOthers, sign: int) -> bool:
        """Let every trial continue."""
        return False
