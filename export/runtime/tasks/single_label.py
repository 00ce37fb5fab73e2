"""Decode one label for each text: the most probable by softmax, or the threshold's label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ..scores import Threshold
from .base import Decoder, register


class SingleLabel(Decoder):
    """Decoder whose predictions are ``{"label": str, "score": float}``."""

    name: ClassVar[str] = "single_label"
    has_threshold: ClassVar[bool] = True

    def num_outputs(self, labels: Sequence[str]) -> int:
        """Return the number of labels: one logit for each."""
        return len(labels)

    def decode(
        self, logits: np.ndarray, labels: Sequence[str], threshold: Threshold | None
    ) -> list[dict[str, Any]]:
        """Return the label and softmax probability of each text.

        A text that the threshold rejects gets the threshold's label, with the score 1 - the largest probability of
        the other labels.
        """
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=-1, keepdims=True)
        best = probabilities.argmax(axis=-1)
        answers = [{"label": labels[i], "score": float(probabilities[row, i])} for row, i in enumerate(best)]
        if threshold is None:
            return answers
        for row in np.flatnonzero(threshold.refuses(logits)):
            if answers[row]["label"] != threshold.label:
                answers[row] = {"label": threshold.label, "score": 1 - answers[row]["score"]}
        return answers


register(SingleLabel())
