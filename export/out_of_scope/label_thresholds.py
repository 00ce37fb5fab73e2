"""Choose a threshold for each label of a model that predicts several, on the validation split, for a stated goal.

Shapes: N texts, C labels. A cut is a threshold on a label's logit.
"""

from __future__ import annotations

import numpy as np

from ..runtime.scores import LabelThresholds
from .config import LabelThresholdsConfig


def choose_label_thresholds(
    logits: np.ndarray,
    labels: np.ndarray,
    names: list[str],
    config: LabelThresholdsConfig | None,
    temperature: float,
) -> LabelThresholds | None:
    """Choose the threshold of each label by itself (SCut: Yang, "A Study of Thresholding Strategies", SIGIR 2001).

    A label with fewer than ``config.min_texts`` texts keeps the threshold of one half, since one chosen on them would
    fit their noise.

    Args:
        logits: float[N, C], of the validation split.
        labels: [N, C], above 0 where a text has the label.
        names: Names of the C labels.
        config: The section ``export.label_thresholds``; None: there are no thresholds.
        temperature: The model's temperature; it changes how thresholds are written, not what they predict.

    Returns:
        The thresholds; None without ``config``.
    """
    if config is None:
        return None
    truth = np.asarray(labels) > 0
    cuts = np.zeros(truth.shape[1])
    for number in np.flatnonzero(truth.sum(axis=0) >= config.min_texts):
        cuts[number] = _cut(logits[:, number].astype(np.float64), truth[:, number], config)
    return LabelThresholds.of_cuts(names, cuts, temperature)


def _cut(logits: np.ndarray, truth: np.ndarray, config: LabelThresholdsConfig) -> float:
    """Return the cut of one label; of equally good ones, the nearest to 0."""
    order = np.argsort(-logits, kind="stable")
    ranked, hits = logits[order], np.cumsum(truth[order])
    below = np.append(ranked[1:], ranked[-1] - 2)
    places = np.flatnonzero(ranked > below)  # no cut divides texts with equal logits
    cuts, hits, num_predicted = (ranked[places] + below[places]) / 2, hits[places], places + 1
    precision, recall = hits / num_predicted, hits / hits[-1]
    if config.goal == "f1":
        value = 2 * hits / (num_predicted + hits[-1])
    else:
        bounded, maximized = (precision, recall) if config.goal == "precision" else (recall, precision)
        is_reached = bounded >= config.at_least
        # Any cut that reaches the bound is better than one that does not.
        value = np.where(is_reached, maximized + 1, bounded) if is_reached.any() else bounded
    best = np.flatnonzero(value == value.max())
    return float(cuts[best[np.abs(cuts[best]).argmin()]])
