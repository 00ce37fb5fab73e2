"""Out of scope by a threshold: a text is outside every label where a score of its logits is below a value.

NumPy alone: the runtime uses it. A score is the higher the more a text looks like one of the labels. Shapes: N
texts, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

ScoreName = Literal["energy", "max_logit", "max_softmax"]


def log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """float64[N] of logits[N, C]."""
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


@dataclass(frozen=True)
class Threshold:
    """Texts whose score is below ``value`` get ``label``.

    Attributes:
        score: One of ``SCORES``.
        value: The threshold.
        label: The label that is given; it need not be one that the model knows.
    """

    score: ScoreName
    value: float
    label: str

    def refuses(self, logits: np.ndarray) -> np.ndarray:
        """bool[N] of logits[N, C]."""
        return SCORES[self.score](logits) < self.value

    def to_json(self) -> dict[str, Any]:
        """As an artifact's config.json holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: Any) -> Threshold:
        """Read what ``to_json`` gave.

        Raises:
            ValueError: It is something else.
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
