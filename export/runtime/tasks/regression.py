"""Decode numbers: the outputs themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ..scores import Threshold
from .base import Decoder, register


class Regression(Decoder):
    """Decoder whose predictions are ``{"value": float}``, or ``{"values": {name: float}}`` for several numbers."""

    name: ClassVar[str] = "regression"

    def num_outputs(self, labels: Sequence[str]) -> int:
        """Return how many numbers are predicted: one output for each."""
        return len(labels)

    def decode(
        self,
        logits: np.ndarray,
        labels: Sequence[str],
        threshold: Threshold | None,
        temperature: float = 1.0,
    ) -> list[dict[str, Any]]:
        """Return the numbers of each text, in the unit of the training data; there is no temperature."""
        if len(labels) == 1:
            return [{"value": float(row[0])} for row in logits]
        return [{"values": dict(zip(labels, map(float, row), strict=True))} for row in logits]

    def without_scores(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return an empty dictionary: numbers that differ only by rounding count as equal."""
        return {}

    def margin(self, logits: np.ndarray) -> float:
        """Return 0: numbers have no margin to another answer."""
        return 0.0

    def cells(self, answer: dict[str, Any]) -> list[tuple[str, float]]:
        """Return each number with its name."""
        return [("value", answer["value"])] if "value" in answer else list(answer["values"].items())


register(Regression())
