"""Metrics of texts with one label each: by scikit-learn on predictions, in NumPy on the counts of many resamples.

Both give the same value; a ratio whose divisor is 0 is 0. Macro averages are over the labels that the texts or the
predictions have, the out-of-scope label included. Shapes: N texts, C labels, ``...`` resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .metrics import LabelCounts

Measure = Callable[[np.ndarray, np.ndarray], float]
OfCounts = Callable[[LabelCounts], np.ndarray]


def _by_sklearn(function: str, **options: Any) -> Measure:
    def measure(predictions: np.ndarray, labels: np.ndarray) -> float:
        from sklearn import metrics

        return float(getattr(metrics, function)(labels, predictions, **options))

    return measure


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of N texts whose prediction is their label."""
    return float((np.asarray(predictions) == np.asarray(labels)).mean())


def balanced_accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean recall of the labels that the N texts have."""
    # Unlike balanced_accuracy_score, without a warning for a predicted label that no text has.
    measure = _by_sklearn("recall_score", labels=np.unique(labels), average="macro", zero_division=0)
    return measure(predictions, labels)


def matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return Matthews's correlation coefficient; 0 where labels and predictions are all the same."""
    from sklearn.metrics import matthews_corrcoef

    if np.ptp(np.concatenate([predictions, labels])) == 0:  # scikit-learn would warn
        return 0.0
    return float(matthews_corrcoef(labels, predictions))


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole of the same shape, 0 where whole is 0."""
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=whole > 0)


def precisions(counts: LabelCounts) -> np.ndarray:
    """Return the precision of each label, [..., C]."""
    return ratio(counts.right, counts.predicted)


def recalls(counts: LabelCounts) -> np.ndarray:
    """Return the recall of each label, [..., C]."""
    return ratio(counts.right, counts.texts)


def f1_scores(counts: LabelCounts) -> np.ndarray:
    """Return the F1 of each label, [..., C]."""
    return ratio(2 * counts.right, counts.texts + counts.predicted)


def accuracy_of(counts: LabelCounts) -> np.ndarray:
    """Return the accuracy, [...]."""
    return ratio(counts.right.sum(axis=-1), counts.texts.sum(axis=-1))


def _balanced(counts: LabelCounts) -> np.ndarray:
    return ratio(recalls(counts).sum(axis=-1), (counts.texts > 0).sum(axis=-1))


def macro(values: OfCounts) -> OfCounts:
    """Average over the labels that texts or predictions have; ``values`` must be 0 for the others."""

    def averaged(counts: LabelCounts) -> np.ndarray:
        return ratio(values(counts).sum(axis=-1), (counts.texts + counts.predicted > 0).sum(axis=-1))

    return averaged


def weighted_f1(counts: LabelCounts) -> np.ndarray:
    """Return the mean F1, weighted by the texts of each label, [...]."""
    return ratio((f1_scores(counts) * counts.texts).sum(axis=-1), counts.texts.sum(axis=-1))


def _matthews(counts: LabelCounts) -> np.ndarray:
    """Return Matthews's correlation coefficient for C labels, [...].

    Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient", Computational Biology and
    Chemistry 28, 2004.
    """
    texts, predicted = counts.texts.astype(float), counts.predicted.astype(float)
    total = texts.sum(axis=-1)
    shared = counts.right.sum(axis=-1) * total - (texts * predicted).sum(axis=-1)
    spread = (total**2 - (texts**2).sum(axis=-1)) * (total**2 - (predicted**2).sum(axis=-1))
    return ratio(shared, np.sqrt(spread))


METRICS: dict[str, tuple[Measure, OfCounts]] = {
    "accuracy": (accuracy, accuracy_of),
    "balanced_accuracy": (balanced_accuracy, _balanced),
    "macro_f1": (_by_sklearn("f1_score", average="macro", zero_division=0), macro(f1_scores)),
    "weighted_f1": (_by_sklearn("f1_score", average="weighted", zero_division=0), weighted_f1),
    "macro_precision": (_by_sklearn("precision_score", average="macro", zero_division=0), macro(precisions)),
    "mcc": (matthews, _matthews),
}
"""Metrics over all labels, each as a function of predictions and labels of N texts, and as a function of counts."""

LABEL_METRICS: dict[str, tuple[str, OfCounts]] = {
    "recall": ("recall_score", recalls),
    "precision": ("precision_score", precisions),
    "f1": ("f1_score", f1_scores),
}
"""Metrics of one label: the name of scikit-learn's function, and a function from counts to the values of all labels."""


def of_one(values: np.ndarray, label: int) -> np.ndarray:
    """Return the values [...] of one label from values[..., C]; 0 for a label beyond C, which nothing has."""
    return values[..., label] if label < values.shape[-1] else np.zeros(values.shape[:-1])


def of_label(kind: str, label: int) -> tuple[Measure, OfCounts]:
    """Return a metric of one label as a function of predictions and labels of N texts, and as a function of counts."""
    function, values = LABEL_METRICS[kind]
    measure = _by_sklearn(function, labels=[label], average="macro", zero_division=0)
    return measure, lambda counts: of_one(values(counts), label)
