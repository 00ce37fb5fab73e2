"""Fit the temperature that makes a model's probabilities match the share of correct predictions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

LEAST, MOST = 0.02, 50.0
"""Bounds of a temperature."""
_STEPS = 60  # of bisection


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fit T so that softmax(logits / T) has the smallest negative log-likelihood of the labels.

    Temperature scaling (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017). It changes no prediction.
    The likelihood is concave in 1/T, so that its maximum is where its derivative, the mean of z_y - E_p[z], is zero.

    Args:
        logits: float[N, C].
        labels: int[N], each from 0 to C - 1.

    Returns:
        T, from 0.02 to 50; 1 without labels.
    """
    if not len(labels):
        return 1.0
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    own = values[np.arange(len(labels)), labels].mean()

    def is_too_flat(inverse: float) -> bool:
        weights = np.exp(inverse * values)
        expected = (weights * values).sum(axis=1) / weights.sum(axis=1)
        return bool(own > expected.mean())

    return _bisected(is_too_flat)


def fit_sigmoid_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fit T so that sigmoid(logits / T) has the smallest negative log-likelihood of labels that may occur together.

    As :func:`fit_temperature`, with a Bernoulli distribution for each label; the derivative is the mean of
    z · (y - sigmoid(z / T)).

    Args:
        logits: float[N, C].
        labels: [N, C], above 0 where a text has the label.

    Returns:
        T, from 0.02 to 50; 1 without labels.
    """
    values, truth = logits.astype(np.float64), np.asarray(labels) > 0
    if not truth.size:
        return 1.0

    def is_too_flat(inverse: float) -> bool:
        expected = 0.5 + 0.5 * np.tanh(0.5 * inverse * values)
        return bool((values * (truth - expected)).sum() > 0)

    return _bisected(is_too_flat)


def _bisected(is_too_flat: Callable[[float], bool]) -> float:
    """Return the temperature above which probabilities are too flat, given the test for an inverse temperature."""
    low, high = np.log(1 / MOST), np.log(1 / LEAST)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_too_flat(float(np.exp(middle))) else (low, middle)
    return float(np.exp(-(low + high) / 2))
