"""Detect out-of-scope texts: those for which a score of the logits is below a threshold.

Needs NumPy alone, because the runtime uses it. A score is higher the more a text looks like one of the labels. Shapes:
N texts, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

ScoreName = Literal["energy", "max_logit", "max_softmax"]


def log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """Compute log(sum(exp(logits))) of each text: float64[N] from logits[N, C]."""
    z = np.asarray(logits, dtype=np.float64)
    largest = z.max(axis=-1)
    return largest + np.log(np.exp(z - largest[:, None]).sum(axis=-1))


def _max_logit(logits: np.ndarray) -> np.ndarray:
    return np.asarray(logits, dtype=np.float64).max(axis=-1)


SCORES: dict[ScoreName, Callable[[np.ndarray], np.ndarray]] = {
    # The negative free energy at temperature 1: Liu et al., "Energy-based Out-of-distribution Detection", 2020.
    "energy": log_sum_exp,
    # Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings", 2022.
    "max_logit": _max_logit,
    # Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
    # Networks", 2017.
    "max_softmax": lambda logits: np.exp(_max_logit(logits) - log_sum_exp(logits)),
}

_NOT_BELOW_LARGEST_LOGIT = frozenset({"energy", "max_logit"})
"""Scores of at least the largest logit, in floating-point numbers as well."""


@dataclass(frozen=True)
class Threshold:
    """A threshold for out-of-scope texts: those whose score is below ``value`` get ``label``.

    Attributes:
        score: One of ``SCORES``.
        value: The threshold.
        label: The label for rejected texts; it need not be one of the model's.
    """

    score: ScoreName
    value: float
    label: str

    def refuses(self, logits: np.ndarray) -> np.ndarray:
        """Return which texts are rejected: bool[N] from logits[N, C]."""
        return SCORES[self.score](logits) < self.value

    def refuses_one(self, logits: np.ndarray, largest: float) -> bool:
        """Return whether one text is rejected, as ``refuses`` does, mostly without computing the score.

        Args:
            logits: logits[C].
            largest: The largest of them.
        """
        # float(): NumPy would round the threshold to the logits' precision.
        if self.score in _NOT_BELOW_LARGEST_LOGIT and float(largest) >= self.value:
            return False
        return bool(self.refuses(logits[None])[0])

    def to_json(self) -> dict[str, Any]:
        """Return the threshold as it is stored in an artifact's distiltune.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: Any) -> Threshold:
        """Read a threshold written by ``to_json``.

        Raises:
            ValueError: The value is not a threshold.
        """
        if not isinstance(given, dict) or set(given) != {"score", "value", "label"}:
            raise ValueError("it must be null, or an object of score, value and label")
        score, value, label = given["score"], given["value"], given["label"]
        if not isinstance(score, str) or score not in SCORES:
            raise ValueError(f"its score must be one of {', '.join(SCORES)}")
        try:
            finite = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        except OverflowError:  # an integer beyond the largest float
            finite = False
        if not finite:
            raise ValueError("its value must be a finite number")
        if (
            not isinstance(label, str)
            or not label.strip()
            or any("\ud800" <= each <= "\udfff" for each in label)
        ):
            raise ValueError("its label must be a name")
        return cls(score, float(value), label)
