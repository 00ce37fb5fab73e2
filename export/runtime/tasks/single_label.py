"""Decode one label for each text: the most probable by softmax, or the threshold's label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ..scores import Threshold
from .base import Decoder, register

_CLEAR_MAJORITY = 0.51
"""Probability above which no other label can have the same, even after rounding in 32 bits."""
_CLOSE = 1e-5
"""Difference of two logits whose probabilities, in 32 bits, may be rounded to the same number."""


class SingleLabel(Decoder):
    """Decoder whose predictions are ``{"label": str, "score": float}``."""

    name: ClassVar[str] = "single_label"
    names_one: ClassVar[bool] = True
    has_threshold: ClassVar[bool] = True

    def num_outputs(self, labels: Sequence[str]) -> int:
        """Return the number of labels: one logit for each."""
        return len(labels)

    def decode(
        self,
        logits: np.ndarray,
        labels: Sequence[str],
        threshold: Threshold | None,
        temperature: float = 1.0,
    ) -> list[dict[str, Any]]:
        """Return the label and probability of each text, by softmax(logits / temperature).

        A text that the threshold rejects gets the threshold's label, with the score 1 - the largest probability of
        the other labels.
        """
        probabilities = _softmax(logits / temperature)
        best = probabilities.argmax(axis=-1)
        answers = [{"label": labels[i], "score": float(probabilities[row, i])} for row, i in enumerate(best)]
        if threshold is None:
            return answers
        for row in np.flatnonzero(threshold.refuses(logits)):
            if answers[row]["label"] != threshold.label:
                answers[row] = {"label": threshold.label, "score": 1 - answers[row]["score"]}
        return answers

    def decode_one(
        self,
        logits: np.ndarray,
        labels: Sequence[str],
        threshold: Threshold | None,
        temperature: float = 1.0,
    ) -> dict[str, Any]:
        """Return the label and probability of one text of logits[C], in as few passes over them as possible."""
        best = int(logits.argmax())
        scaled = logits if temperature == 1.0 else logits / temperature
        below = scaled - scaled[best]
        # exp(0) is 1; add.reduce skips the Python that sum runs through.
        score = float(1 / np.add.reduce(np.exp(below)))
        # Below a clear majority, a label before the best may be rounded to the same probability and come first.
        if not score > _CLEAR_MAJORITY and (math.isnan(score) or (best and below[:best].max() > -_CLOSE)):
            return super().decode_one(logits, labels, threshold, temperature)
        label = labels[best]
        if threshold is None or label == threshold.label or not threshold.refuses_one(logits, logits[best]):
            return {"label": label, "score": score}
        return {"label": threshold.label, "score": 1 - score}

    def ranked(
        self,
        logits: np.ndarray,
        labels: Sequence[str],
        threshold: Threshold | None,
        count: int,
        temperature: float = 1.0,
    ) -> list[list[dict[str, Any]]]:
        """Return the most probable labels of each text; of a rejected text, the threshold's label comes first."""
        probabilities = _softmax(logits / temperature)
        ranked = [
            [{"label": labels[i], "score": float(row[i])} for i in np.argsort(-row, kind="stable")[:count]]
            for row in probabilities
        ]
        for answers, best in zip(ranked, self.decode(logits, labels, threshold, temperature), strict=True):
            if answers[0] != best:
                rest = [each for each in answers if each["label"] != best["label"]]
                answers[:] = [best, *rest][:count]
        return ranked


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


register(SingleLabel())
