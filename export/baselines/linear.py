"""Linear classifiers in 32 bits: a score of each class from scikit-learn's weights, with two classes too."""

from __future__ import annotations

from typing import Any

import numpy as np


def class_columns(weights: np.ndarray, bias: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return a linear classifier's weights [F, C] and bias [C], float32 and contiguous, with a column for each class.

    scikit-learn has one row of weights for two classes, the score d of the second against the first: their scores are
    -d/2 and d/2, whose softmax is the sigmoid of d.

    Args:
        weights: float[R, F], ``coef_``; R is 1 for two classes, else C.
        bias: float[R], ``intercept_``.
    """
    bias = np.asarray(bias)
    if len(weights) == 1:
        weights, bias = np.concatenate([-weights / 2, weights / 2]), np.concatenate([-bias / 2, bias / 2])
    return np.ascontiguousarray(weights.T, dtype=np.float32), bias.astype(np.float32)
