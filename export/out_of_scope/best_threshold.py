"""The effect of every out-of-scope threshold on some texts, and the threshold that best meets a goal.

Shapes: N texts, K thresholds. Shares are 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .config import OutOfScopeConfig

_NUM_VALUES = 200  # thresholds to select from, at the quantiles of the scores, and as many evenly spaced


@dataclass(frozen=True)
class Curve:
    """The effect of every threshold on N texts, from rejecting none to rejecting all.

    Attributes:
        values: float64[K], thresholds in ascending order; the first rejects nothing, the last everything.
        in_scope_accuracy: float64[K], share of in-scope texts that get their own label.
        in_scope_refused: float64[K], share of in-scope texts that get the out-of-scope label.
        recall: float64[K], share of out-of-scope texts that get the out-of-scope label; NaN without such texts.
        accuracy: float64[K], share of all texts that get their own label.
    """

    values: np.ndarray
    in_scope_accuracy: np.ndarray
    in_scope_refused: np.ndarray
    recall: np.ndarray
    accuracy: np.ndarray


def threshold_curve(
    scores: np.ndarray, predictions: np.ndarray, labels: np.ndarray, out_of_scope_id: int
) -> Curve:
    """Compute the effect of every threshold on N texts.

    Args:
        scores: float[N].
        predictions: int[N], the classes with the largest logits; out of scope may be one of them.
        labels: int[N].
        out_of_scope_id: Class of out-of-scope texts; it need not be one of the model's.
    """
    order = np.argsort(scores, kind="stable")
    ranked, outside = scores[order], labels[order] == out_of_scope_id
    right, refused = (predictions == labels)[order], (predictions == out_of_scope_id)[order]
    # Thresholds lie between adjacent scores that differ; the first is below all scores, the last above.
    cuts = np.concatenate([[0], np.flatnonzero(np.diff(ranked) > 0) + 1, [len(ranked)]])
    values = np.concatenate(
        [
            [np.nextafter(ranked[0], -np.inf)],
            (ranked[cuts[1:-1] - 1] + ranked[cuts[1:-1]]) / 2,
            [np.nextafter(ranked[-1], np.inf)],
        ]
    )

    def count_accepted(flags: np.ndarray) -> np.ndarray:
        """Count the flagged texts that each threshold accepts, int[K]."""
        return (flags.sum() - np.concatenate([[0], np.cumsum(flags)]))[cuts]

    def count_rejected(flags: np.ndarray) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(flags)])[cuts]

    num_inside, num_outside = int((~outside).sum()), int(outside.sum())
    inside_right = count_accepted(right & ~outside)
    found = count_rejected(outside) + count_accepted(refused & outside)
    return Curve(
        values=values,
        in_scope_accuracy=inside_right / max(num_inside, 1),
        in_scope_refused=(count_rejected(~outside) + count_accepted(refused & ~outside)) / max(num_inside, 1),
        recall=found / num_outside if num_outside else np.full(len(cuts), np.nan),
        accuracy=(inside_right + found) / len(scores),
    )


def best_threshold(
    scores: np.ndarray,
    predictions: np.ndarray,
    labels: np.ndarray,
    out_of_scope_id: int,
    config: OutOfScopeConfig,
    *,
    are_probabilities: bool = False,
) -> float:
    """Return the threshold that best meets a goal, as :func:`choose_threshold` selects it.

    Out-of-scope texts are few, and the goal is a step function of their scores, whose maximum depends on single texts.
    So both shares are estimated from smoothed distributions of the scores: each text counts with the probability that
    its score, with logistic noise added, lies on the right side of the threshold. The noise of each of the two kinds of
    texts has the bandwidth of Silverman's rule (Density Estimation for Statistics and Data Analysis, 1986, equation
    3.31). The middle one of equally good thresholds is returned.

    Args:
        scores: float[N]; unless they are probabilities, differences of equal size must mean about the same everywhere,
            as those of logits do.
        predictions: int[N], the classes with the largest logits.
        labels: int[N].
        out_of_scope_id: As for :func:`threshold_curve`.
        config: The goal.
        are_probabilities: Whether the scores are probabilities, above 0. Most are so close to 1 that only their
            log-odds can be smoothed.
    """
    if config.max_in_scope_refused is not None:
        curve = threshold_curve(scores, predictions, labels, out_of_scope_id)
        kept = np.flatnonzero(curve.in_scope_refused <= config.max_in_scope_refused)
        return float(curve.values[kept[-1] if len(kept) else 0])
    if are_probabilities:
        log_odds = np.log(scores) - np.log(np.maximum(1 - scores, np.finfo(np.float64).eps / 2))
        best = best_threshold(log_odds, predictions, labels, out_of_scope_id, config)
        is_above_all = best > log_odds.max()
        return float(np.nextafter(scores.max(), np.inf) if is_above_all else 1 / (1 + np.exp(-best)))
    refuses_none, refuses_all = np.nextafter(scores.min(), -np.inf), np.nextafter(scores.max(), np.inf)
    # Texts whose answer the threshold can make wrong, and right.
    is_outside = labels == out_of_scope_id
    inside = scores[~is_outside & (predictions == labels)]
    outside = scores[is_outside & (predictions != out_of_scope_id)]
    if not len(inside) or not len(outside):
        return float(refuses_none if len(inside) else refuses_all)
    # Texts of one score have no bandwidth of their own.
    of_inside, of_outside = _bandwidth(inside), _bandwidth(outside)
    of_inside, of_outside = of_inside or of_outside, of_outside or of_inside
    lowest, highest = outside.min(), outside.max()
    values = np.concatenate(
        [
            [refuses_none, np.nextafter(highest, np.inf), refuses_all],
            np.quantile(outside, np.linspace(0, 1, _NUM_VALUES)),
            np.linspace(lowest, max(highest, np.median(inside)), _NUM_VALUES),
            highest + of_outside * np.linspace(0, 3, _NUM_VALUES // 10),
        ]
    )
    values = np.unique(values)
    kept = len(inside) * (1 - _smoothed_share_below(values, inside, of_inside))
    refused = len(outside) * _smoothed_share_below(values, outside, of_outside)
    weight = config.in_scope_weight
    reached = weight * kept / (~is_outside).sum() + (1 - weight) * refused / is_outside.sum()
    best = np.flatnonzero(reached >= reached.max() - 1e-12)
    return float(values[best[len(best) // 2]])


def _bandwidth(scores: np.ndarray) -> float:
    """Return the bandwidth of Silverman's rule for scores float[N], 0 if they are all equal."""
    spread = float(scores.std())
    if quartiles := float(np.subtract(*np.quantile(scores, [0.75, 0.25]))) / 1.349:
        spread = min(spread, quartiles)
    return 0.9 * spread * len(scores) ** -0.2


def _smoothed_share_below(values: np.ndarray, scores: np.ndarray, bandwidth: float) -> np.ndarray:
    """Return the share of scores float[N] below each of K values, smoothed by this bandwidth; float64[K]."""
    scale = bandwidth * np.sqrt(3) / np.pi  # of a logistic distribution with that standard deviation
    if not scale:
        return np.searchsorted(np.sort(scores), values) / len(scores)
    with np.errstate(over="ignore"):
        return np.array([0.5 + 0.5 * np.tanh((value - scores) / (2 * scale)).mean() for value in values])
