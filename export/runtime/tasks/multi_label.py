"""Decode several labels for each text: those whose score, the sigmoid of their logit, is above their threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ..scores import LabelThresholds
from .base import Decoder, register


class MultiLabel(Decoder):
    """Decoder whose predictions are ``{"labels": [{"label": str, "score": float}, …]}``, the highest score first."""

    name: ClassVar[str] = "multi_label"
    has_threshold: ClassVar[bool] = True

    def num_outputs(self, labels: Sequence[str]) -> int:
        """Return the number of labels: one logit for each."""
        return len(labels)

    def read_threshold(self, given: Any, labels: Sequence[str]) -> LabelThresholds:
        """Read a threshold for each label."""
        return LabelThresholds.from_json(given, labels)

    def decode(
        self,
        logits: np.ndarray,
        labels: Sequence[str],
        threshold: LabelThresholds | None,
        temperature: float = 1.0,
    ) -> list[dict[str, Any]]:
        """Return the labels of each text with their scores, sigmoid(logit / temperature); possibly none.

        A label is predicted where its score is above its threshold, or above one half if there are no thresholds.
        """
        is_predicted = logits > (0.0 if threshold is None else threshold.cuts(temperature))
        return [
            {"labels": _ordered(row, np.flatnonzero(own), labels, temperature)}
            for row, own in zip(logits, is_predicted, strict=True)
        ]

    def ranked(
        self,
        logits: np.ndarray,
        labels: Sequence[str],
        threshold: LabelThresholds | None,
        count: int,
        temperature: float = 1.0,
    ) -> list[list[dict[str, Any]]]:
        """Return the labels with the highest scores for each text, whatever their thresholds."""
        every = np.arange(len(labels))
        return [_ordered(row, every, labels, temperature)[:count] for row in logits]

    def without_scores(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return the names of the labels, sorted."""
        return {"labels": sorted(each["label"] for each in answer["labels"])}

    def margin(self, logits: np.ndarray) -> float:
        """Return the smallest absolute value of logits[C], since a label changes where its logit crosses 0."""
        return float(np.abs(logits).min())

    def cells(self, answer: dict[str, Any]) -> list[tuple[str, float]]:
        """Return each label with its score."""
        return [(each["label"], each["score"]) for each in answer["labels"]]


def _ordered(
    row: np.ndarray, places: np.ndarray, labels: Sequence[str], temperature: float
) -> list[dict[str, Any]]:
    """Return some labels of one text with their scores, the highest first."""
    scaled = row[places] / temperature
    # tanh never overflows, unlike exp
    scores = 0.5 + 0.5 * np.tanh(0.5 * scaled)
    order = np.argsort(-scaled, kind="stable")
    return [{"label": labels[int(places[i])], "score": float(scores[i])} for i in order]


register(MultiLabel())
