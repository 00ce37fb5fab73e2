"""Select an out-of-scope threshold, and measure the quality of the threshold and its score.

Shapes: N texts, C classes, K thresholds. Shares are 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigError
from ...training import tasks
from ..runtime.scores import Threshold, margins
from .best_threshold import best_threshold

if TYPE_CHECKING:
    from ...training.tasks import OutOfScope
    from .config import OutOfScopeConfig

NUM_BINS = 15
_LEAST_TEXTS = 10  # in a bin
_MOST_POINTS = 200  # per curve in a report
_WEIGHTS = tuple(step / 20 for step in range(21))  # of the score margin


@dataclass(frozen=True)
class ScopeGoal:
    """The goal of a threshold selection.

    Attributes:
        config: Score and goal.
        label: The label for rejected texts.
    """

    config: OutOfScopeConfig
    label: str


def scope_goal(
    config: OutOfScopeConfig | None, data_label: str | None, label_names: list[str], num_outside: int
) -> ScopeGoal | None:
    """Return the goal of a job's threshold selection; None where the job has no threshold.

    Args:
        config: The section ``export.out_of_scope``.
        data_label: The data's out-of-scope label, if there is one.
        label_names: All labels of the data.
        num_outside: Number of out-of-scope texts in the validation split.

    Raises:
        ConfigError: The label contradicts the data, or the goal cannot be evaluated on the validation split.
    """
    if config is None:
        return None
    if config.label is not None and data_label is not None and config.label != data_label:
        raise ConfigError(
            f"export.out_of_scope.label: {config.label!r}, but the label in the data is {data_label!r}; remove the "
            f"key"
        )
    if config.label is not None and data_label is None and config.label in label_names:
        raise ConfigError(
            f"export.out_of_scope.label: {config.label!r} is one of the data's labels; if its texts are out of "
            f"scope, set data.out_of_scope_label: {config.label}"
        )
    label = data_label or config.label
    if label is None:
        return None
    if num_outside or config.max_in_scope_refused is not None:
        return ScopeGoal(config, label)
    if config.label is not None:
        raise ConfigError(
            "export.out_of_scope: no text of the validation split is out of scope, so the recall is not known; set "
            "export.out_of_scope.max_in_scope_refused, such as 0.02: the highest threshold that rejects at most "
            "that share of the in-scope texts"
        )
    return None


def choose_threshold(
    scope: OutOfScope, logits: np.ndarray, labels: np.ndarray, out_of_scope_id: int, goal: ScopeGoal
) -> Threshold:
    """Select the threshold that best meets a goal on the validation split.

    The score is that of the goal. By default, it is ``margin`` where the model has an output for the out-of-scope label
    and the split has texts with and without that label, which its weight is fitted on; otherwise, also if the goal's is
    ``margin``, ``energy``.

    Args:
        scope: Out-of-scope handling of the task.
        logits: float[N, C].
        labels: int[N].
        out_of_scope_id: As for :func:`~.best_threshold.threshold_curve`.
        goal: With ``max_in_scope_refused``: the highest threshold that rejects no larger share of the in-scope texts;
            else w · in-scope accuracy + (1 - w) · out-of-scope recall is maximized, w = ``in_scope_weight``, as
            :func:`~.best_threshold.best_threshold` estimates it.
    """
    outside = labels == out_of_scope_id
    score = goal.config.score or "margin"
    if score == "margin" and out_of_scope_id < logits.shape[-1] and outside.any() and not outside.all():
        weight = fit_weight(logits, outside, out_of_scope_id)
        threshold = Threshold(score, 0.0, goal.label, weight, out_of_scope_id)
    else:
        threshold = Threshold("energy" if score == "margin" else score, 0.0, goal.label)
    scores, texts = threshold.scores(logits), (scope.predictions(logits), labels, out_of_scope_id)
    is_probability = threshold.score == "max_softmax"
    value = best_threshold(scores, *texts, goal.config, are_probabilities=is_probability)
    return replace(threshold, value=value)


def fit_weight(logits: np.ndarray, outside: np.ndarray, output: int) -> float:
    """Return the weight of the score ``margin`` with the largest area under the ROC curve, the smallest of equal ones.

    Args:
        logits: float[N, C].
        outside: bool[N], whether each text is out of scope; there are texts of both kinds.
        output: Index of the out-of-scope output.
    """
    largest, own = margins(logits, output, 0.0), logits[:, output].astype(np.float64)
    return max(_WEIGHTS, key=lambda weight: area_under_roc(largest - weight * own, outside) or 0.0)


@dataclass(frozen=True)
class AccuracyWithThreshold:
    """Measures the accuracy of a split's predictions with the threshold that is selected on the same split.

    The threshold is in-sample, so that the accuracy is a little too high, by about the same in every epoch and trial.

    Attributes:
        task: Name of a task that has out-of-scope texts.
        goal: Goal of the selection.
        out_of_scope_id: As for :func:`~.best_threshold.threshold_curve`.
    """

    task: str
    goal: ScopeGoal
    out_of_scope_id: int

    def __call__(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """Return the share of texts, 0 to 1, whose answer is their label: logits float[N, C], labels int[N]."""
        scope = tasks.get(self.task).out_of_scope
        assert scope is not None, "the specification rejects thresholds for other tasks"
        threshold = choose_threshold(scope, logits, labels, self.out_of_scope_id, self.goal)
        answers = answers_with_threshold(scope, threshold, logits, self.out_of_scope_id)
        return float((answers == labels).mean())


def area_under_roc(scores: np.ndarray, outside: np.ndarray) -> float | None:
    """Compute the probability that an in-scope text scores higher than an out-of-scope one, ties counted half.

    This is the normalized Mann-Whitney statistic. None where one of the two kinds is missing.

    Args:
        scores: float[N].
        outside: bool[N], whether each text is out of scope.
    """
    if outside.all() or not outside.any():
        return None
    low = np.sort(scores[outside])
    inside = scores[~outside]
    below, up_to = np.searchsorted(low, inside, "left"), np.searchsorted(low, inside, "right")
    return float((below + up_to).mean() / (2 * len(low)))


def reliability(confidence: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """Measure the gap between the probability of predictions and the share of correct ones.

    Args:
        confidence: float[N], the probability of each prediction.
        right: bool[N], whether each prediction is correct.

    Returns:
        ``ece``: the expected calibration error, the mean of |accuracy - confidence| over bins, weighted by their
        number of texts (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017). The bins, 15 or as many as
        have ten texts each, have equal numbers of texts, since most predictions of a good model would share one of
        equal width (Nixon et al., "Measuring Calibration in Deep Learning", 2019); equal confidences are in one bin.
        ``bins``: ``confidence``, ``accuracy`` and ``count`` of each.
    """
    order = np.argsort(confidence, kind="stable")
    ranked, num_bins = confidence[order], max(1, min(NUM_BINS, len(order) // _LEAST_TEXTS))
    cuts = np.searchsorted(ranked, ranked[len(order) * np.arange(1, num_bins) // num_bins], "left")
    bins = [
        {
            "confidence": float(confidence[rows].mean()),
            "accuracy": float(right[rows].mean()),
            "count": len(rows),
        }
        for rows in np.split(order, np.unique(cuts))
        if len(rows)
    ]
    gaps = [abs(each["accuracy"] - each["confidence"]) * each["count"] for each in bins]
    return {"ece": sum(gaps) / len(right), "bins": bins}


def measure_threshold(
    scope: OutOfScope, threshold: Threshold, logits: np.ndarray, labels: np.ndarray, out_of_scope_id: int
) -> dict[str, Any]:
    """Measure the quality of a threshold and its score on a split.

    Args:
        scope: Out-of-scope handling of the task.
        threshold: A threshold, selected on another split.
        logits: float[N, C].
        labels: int[N].
        out_of_scope_id: As for :func:`~.best_threshold.threshold_curve`.

    Returns:
        The threshold's own fields; ``accuracy``, ``in_scope_accuracy``, ``oos_recall`` and ``in_scope_refused`` with
        the threshold; ``auroc``, for which texts predicted out of scope by their largest logit rank lowest.
    """
    scores, outside = _final_scores(scope, threshold, logits, out_of_scope_id), labels == out_of_scope_id
    answers = answers_with_threshold(scope, threshold, logits, out_of_scope_id)
    right = answers == labels
    return {
        **threshold.to_json(),
        "accuracy": float(right.mean()),
        "in_scope_accuracy": None if outside.all() else float(right[~outside].mean()),
        "oos_recall": float(right[outside].mean()) if outside.any() else None,
        "in_scope_refused": None if outside.all() else float((answers[~outside] == out_of_scope_id).mean()),
        "auroc": area_under_roc(scores, outside),
    }


def answers_with_threshold(
    scope: OutOfScope, threshold: Threshold, logits: np.ndarray, out_of_scope_id: int
) -> np.ndarray:
    """Return the class predicted for each text, int[N]; arguments as for :func:`measure_threshold`."""
    return np.where(threshold.refuses(logits), out_of_scope_id, scope.predictions(logits))


def _final_scores(
    scope: OutOfScope, threshold: Threshold, logits: np.ndarray, out_of_scope_id: int
) -> np.ndarray:
    """Return scores, float64[N]; texts predicted out of scope by their largest logit get -inf."""
    refused = scope.predictions(logits) == out_of_scope_id
    return np.where(refused, -np.inf, threshold.scores(logits))


def threshold_curves(
    scope: OutOfScope, threshold: Threshold, logits: np.ndarray, labels: np.ndarray, out_of_scope_id: int
) -> dict[str, Any]:
    """Compute the effect of other thresholds on a split, for plots.

    Args:
        scope: As for :func:`measure_threshold`.
        threshold: As for :func:`measure_threshold`.
        logits: float[N, C].
        labels: int[N].
        out_of_scope_id: As for :func:`~.best_threshold.threshold_curve`.

    Returns:
        ``refused``: ``share`` of all texts that is rejected against ``accuracy`` of the others. ``roc``: ``in_scope``,
        the share of in-scope texts that is rejected, against ``recall``; ``chosen`` holds both at the threshold;
        ``roc`` is None where all texts or none are out of scope. At most 200 points each.
    """
    scores, outside = _final_scores(scope, threshold, logits, out_of_scope_id), labels == out_of_scope_id
    order, num = np.argsort(scores, kind="stable"), len(scores)
    right = (scope.predictions(logits) == labels)[order]
    at = np.unique(np.linspace(0, num - 1, min(num, _MOST_POINTS)).astype(int))
    kept_right = right[::-1].cumsum()[::-1] / np.arange(num, 0, -1)
    curves: dict[str, Any] = {"refused": {"share": (at / num).tolist(), "accuracy": kept_right[at].tolist()}}
    if outside.all() or not outside.any():
        return curves | {"roc": None}
    found = np.concatenate([[0], outside[order].cumsum()]) / outside.sum()
    lost = np.concatenate([[0], (~outside[order]).cumsum()]) / (~outside).sum()
    at = np.unique(np.linspace(0, num, min(num + 1, _MOST_POINTS)).astype(int))
    chosen = int((scores < threshold.value).sum())
    return curves | {
        "roc": {
            "in_scope": lost[at].tolist(),
            "recall": found[at].tolist(),
            "chosen": {"in_scope": float(lost[chosen]), "recall": float(found[chosen])},
        }
    }
