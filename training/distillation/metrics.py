"""Accuracy, in-scope accuracy and out-of-scope recall of a classifier's predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def classification_metrics(
    predictions: np.ndarray, labels: np.ndarray, out_of_scope_id: int | None = None
) -> dict[str, float | None]:
    """Shares of right predictions, 0 to 1.

    Args:
        predictions: logits[N, C] or class ids[N].
        labels: class ids[N].
        out_of_scope_id: id of the class for texts outside every intent; ``None`` if the data has none.

    Returns:
        ``accuracy`` over all texts; ``in_scope_accuracy`` over those whose label is an intent (equal to
        accuracy without an out-of-scope class); ``oos_recall``, the share of out-of-scope texts recognised
        (``None`` without such a class or such a text).

    Raises:
        ValueError: no labels, or predictions and labels differ in length.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if labels.size == 0 or len(predictions) != len(labels):
        raise ValueError(
            f"{len(predictions)} predictions for {labels.size} labels; they need the same length, above 0"
        )
    right = (predictions.argmax(axis=-1) if predictions.ndim == 2 else predictions) == labels
    accuracy = float(right.mean())
    if out_of_scope_id is None:
        return {"accuracy": accuracy, "in_scope_accuracy": accuracy, "oos_recall": None}
    outside = labels == out_of_scope_id
    return {
        "accuracy": accuracy,
        "in_scope_accuracy": accuracy if outside.all() else float(right[~outside].mean()),
        "oos_recall": float(right[outside].mean()) if outside.any() else None,
    }


def compute_metrics_for(out_of_scope_id: int | None = None) -> Callable[[Any], dict[str, float]]:
    """A ``compute_metrics`` for ``Trainer``: the metrics above that have a value, by the same names."""

    def compute_metrics(evaluated: Any) -> dict[str, float]:
        metrics = classification_metrics(evaluated.predictions, evaluated.label_ids, out_of_scope_id)
        return {name: value for name, value in metrics.items() if value is not None}

    return compute_metrics
