"""Thresholds that an artifact ships: for out-of-scope texts, by a score of the logits, and for each of several labels.

Needs only NumPy, because the runtime uses it. A score is higher the more a text looks like one of the labels. Shapes:
N texts, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np

ScoreName = Literal["margin", "energy", "max_logit", "max_softmax"]


def log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """Compute log(sum(exp(logits))) of each text: float64[N] from logits[N, C]."""
    z = np.asarray(logits, dtype=np.float64)
    largest = z.max(axis=-1)
    return largest + np.log(np.exp(z - largest[:, None]).sum(axis=-1))


def _max_logit(logits: np.ndarray) -> np.ndarray:
    return np.asarray(logits, dtype=np.float64).max(axis=-1)


def margins(logits: np.ndarray, output: int, weight: float) -> np.ndarray:
    """Compute the largest logit of the other outputs minus ``weight`` times that of ``output``.

    Args:
        logits: float[N, C].
        output: Index of the out-of-scope output.
        weight: Weight of its logit.

    Returns:
        float64[N]; -inf where there is no other output.
    """
    others = np.delete(logits, output, axis=-1).max(axis=-1, initial=-np.inf)
    return others.astype(np.float64) - weight * logits[:, output].astype(np.float64)


SCORES: dict[ScoreName, Callable[[np.ndarray], np.ndarray]] = {
    # The negative free energy at temperature 1: Liu et al., "Energy-based Out-of-distribution Detection", 2020.
    "energy": log_sum_exp,
    # Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings", 2022.
    "max_logit": _max_logit,
    # Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
    # Networks", 2017.
    "max_softmax": lambda logits: np.exp(_max_logit(logits) - log_sum_exp(logits)),
}
"""Scores of the logits alone; that of ``margin`` also depends on an output and its weight."""

_NOT_BELOW_LARGEST_LOGIT = frozenset({"energy", "max_logit"})
"""Scores that are never below the largest logit, even after floating-point rounding."""


@dataclass(frozen=True)
class Threshold:
    """A threshold for out-of-scope texts: those whose score is below ``value`` get ``label``.

    Attributes:
        score: Name of the score.
        value: The threshold.
        label: The label for rejected texts; it need not be one of the model's, except for the score ``margin``.
        weight: Of the score ``margin``: the weight of the logit of ``label``; else None.
        output: Of the score ``margin``: the index of the model's output for ``label``; else None.
    """

    score: ScoreName
    value: float
    label: str
    weight: float | None = None
    output: int | None = None

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """Return the score of each text: float64[N] from logits[N, C]."""
        if self.score != "margin":
            return SCORES[self.score](logits)
        assert self.output is not None and self.weight is not None, "the score margin has both"
        return margins(logits, self.output, self.weight)

    def refuses(self, logits: np.ndarray) -> np.ndarray:
        """Return which texts are rejected: bool[N] from logits[N, C]."""
        return self.scores(logits) < self.value

    def refuses_one(self, logits: np.ndarray, largest: float) -> bool:
        """Return whether one text is rejected, as ``refuses`` does, mostly without computing the score.

        Args:
            logits: logits[C].
            largest: The largest of them.
        """
        # float(): NumPy would round the threshold to the logits' precision.
        if self.output is not None and self.weight is not None:
            most, own = float(largest), float(logits[self.output])
            if own < most:  # the largest is another output's
                return most - self.weight * own < self.value
        elif self.score in _NOT_BELOW_LARGEST_LOGIT and float(largest) >= self.value:
            return False
        return bool(self.refuses(logits[None])[0])

    def to_json(self) -> dict[str, Any]:
        """Return the threshold as it is stored in an artifact's distiltune.json."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, given: Any, labels: Sequence[str]) -> Threshold:
        """Read a threshold written by ``to_json``, for a model with these labels.

        Raises:
            ValueError: The value is not a threshold of such a model.
        """
        if not isinstance(given, dict) or set(given) not in (_FIELDS, _FIELDS | _FIELDS_OF_MARGIN):
            raise ValueError(
                "it must be null, or an object of score, value and label, for margin also weight and output"
            )
        value, label, names = given["value"], given["label"], get_args(ScoreName)
        score: ScoreName | None = next((name for name in names if name == given["score"]), None)
        if score is None:
            raise ValueError(f"its score must be one of {', '.join(names)}")
        if not _is_finite(value):
            raise ValueError("its value must be a finite number")
        if (
            not isinstance(label, str)
            or not label.strip()
            or any("\ud800" <= each <= "\udfff" for each in label)
        ):
            raise ValueError("its label must be a name")
        if (score == "margin") != ("weight" in given):
            raise ValueError("it must have weight and output if its score is margin, else neither")
        if score != "margin":
            return cls(score, float(value), label)
        weight, output = given["weight"], given["output"]
        if not _is_finite(weight) or weight < 0:
            raise ValueError("its weight must be a finite number of at least 0")
        if type(output) is not int or not 0 <= output < len(labels) or labels[output] != label:
            raise ValueError("its output must be the index of its label in labels")
        return cls(score, float(value), label, float(weight), output)


_FIELDS = {"score", "value", "label"}
_FIELDS_OF_MARGIN = {"weight", "output"}


def _is_finite(value: Any) -> bool:
    """Return whether a value is a number, and not too large for a float."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False


@dataclass(frozen=True)
class LabelThresholds:
    """A threshold for each label of a model that predicts several: a label is predicted where its score is above it.

    Attributes:
        labels: Names of the labels, in the order of the model's outputs.
        values: Their thresholds, each above 0 and below 1; scores are sigmoid(logit / temperature).
    """

    labels: tuple[str, ...]
    values: tuple[float, ...]

    def cuts(self, temperature: float) -> np.ndarray:
        """Return the thresholds as logits, float64[C]; a label is predicted where its logit is above its cut."""
        return _cuts(self.values, temperature)

    @classmethod
    def of_cuts(cls, labels: Sequence[str], cuts: np.ndarray, temperature: float) -> LabelThresholds:
        """Return the thresholds that have these ``cuts``, bounded to scores of 1e-6 to 1 - 1e-6."""
        scores = 1 / (1 + np.exp(-np.clip(cuts / temperature, -_MOST_CUT, _MOST_CUT)))
        return cls(tuple(labels), tuple(float(each) for each in scores))

    def to_json(self) -> dict[str, Any]:
        """Return the thresholds as they are stored in an artifact's distiltune.json."""
        return {"labels": dict(zip(self.labels, self.values, strict=True))}

    @classmethod
    def from_json(cls, given: Any, labels: Sequence[str]) -> LabelThresholds:
        """Read thresholds written by ``to_json``, for labels in this order.

        Raises:
            ValueError: The value is not one threshold for each label.
        """
        values = given.get("labels") if isinstance(given, dict) and len(given) == 1 else None
        if not isinstance(values, dict) or set(values) != set(labels):
            raise ValueError("it must be null, or an object `labels` with a number for each label")
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
                raise ValueError(f"the threshold of {name!r:.60} must be a number above 0 and below 1")
        return cls(tuple(labels), tuple(float(values[name]) for name in labels))


_MOST_CUT = 13.8  # the logit of 1 - 1e-6


@lru_cache(maxsize=16)
def _cuts(values: tuple[float, ...], temperature: float) -> np.ndarray:
    scores = np.array(values)
    return temperature * np.log(scores / (1 - scores))
