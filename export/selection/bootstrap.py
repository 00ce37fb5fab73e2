"""Compare two models in any metric on the same texts: confidence limits by a paired bootstrap.

Shapes: N texts, R resamples, C labels, K distinct triples of label and both predictions, or statistics of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ...training.tasks import LabelCounts, Metric
from .paired_test import PairedDifference, score_limits

NUM_RESAMPLES = 2000
_MOST_VALUES = 2_000_000  # of one array: memory is bounded, and a slice of resamples stays in the cache
_SEED = 20_260


def compare_in_metric(
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    metric: Metric,
    *,
    confidence: float,
    num_resamples: int = NUM_RESAMPLES,
    right: tuple[np.ndarray, np.ndarray] | None = None,
) -> PairedDifference:
    """Compare two models in a metric, with the percentile limits of a paired bootstrap.

    Texts are drawn with replacement, the same for both models (Efron and Tibshirani, "An Introduction to the
    Bootstrap", 1993, chapters 13 and 16). The same inputs give the same limits. Where hardly any resample changes the
    difference, as with equal predictions, the bootstrap would claim certainty: the limits are never closer to the
    difference than those of the paired score test for equal answers on the texts that the metric is about; of a metric
    of numbers, which are neither right nor wrong, there is no such test.

    Args:
        first: [N, ...], predictions of the first.
        second: [N, ...], predictions of the second.
        labels: [N, ...], labels of the texts.
        metric: The metric, defined on these texts.
        confidence: One-sided, of each limit; above 0.5, below 1.
        num_resamples: R.
        right: bool[N] of both, whether each text is right; None: of classes, whether prediction and label are equal.

    Returns:
        The comparison. Where lower is better, its difference and limits have the opposite sign: above 0, the first
        classifier is better.
    """
    values = [metric.measure(each, labels) or 0.0 for each in (first, second)]
    difference = metric.sign * (values[0] - values[1])
    drawn = metric.sign * _drawn_differences(first, second, labels, metric, num_resamples)
    low, high = (float(each) for each in np.quantile(drawn, [1 - confidence, confidence]))
    if right is None and labels.ndim == 1 and labels.dtype.kind in "iu":
        right = first == labels, second == labels
    only = None, None
    if right is not None:
        num_concerned = int(metric.concerns(labels).sum()) if metric.concerns else len(labels)
        least = score_limits(0, 0, max(num_concerned, 1), confidence=confidence)
        low, high = min(low, difference + least[0]), max(high, difference + least[1])
        only = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return PairedDifference(
        difference,
        low,
        high,
        confidence,
        *only,
        len(labels),
        min(1.0, 2 * (1 + tail) / (1 + num_resamples)),
        method="bootstrap",
        metric=metric.name,
    )


def _drawn_differences(
    first: np.ndarray, second: np.ndarray, labels: np.ndarray, metric: Metric, num_resamples: int
) -> np.ndarray:
    """Return the difference in the metric on each resample, float[R]."""
    if metric.statistics is not None and metric.of_statistics is not None:
        return _of_statistics(
            [metric.statistics(each, labels) for each in (first, second)], metric.of_statistics, num_resamples
        )
    if metric.of_draws is not None:
        return _of_times(
            [metric.of_draws(each, labels) for each in (first, second)], len(labels), num_resamples
        )
    of_counts = metric.of_counts
    if of_counts is None:
        return np.array(
            [
                (metric.measure(first[rows], labels[rows]) or 0.0)
                - (metric.measure(second[rows], labels[rows]) or 0.0)
                for drawn in resamples(len(labels), num_resamples)
                for rows in drawn
            ]
        )
    num_labels = 1 + int(max(each.max(initial=0) for each in (first, second, labels)))
    columns = np.stack([labels, first, second]).astype(np.int64)
    cells, cell_of = np.unique(columns, axis=1, return_inverse=True)
    found = []
    for drawn in resamples(len(labels), num_resamples, num_labels):
        num_drawn, num_cells = len(drawn), cells.shape[1]
        places = cell_of.reshape(-1)[drawn] + num_cells * np.arange(num_drawn)[:, None]
        counts = np.bincount(places.ravel(), minlength=num_drawn * num_cells).reshape(num_drawn, num_cells)
        texts = _summed(counts, cells[0], num_labels)
        values = []
        for predicted in cells[1:]:
            right = counts * (predicted == cells[0])
            values.append(
                of_counts(
                    LabelCounts(
                        texts, _summed(counts, predicted, num_labels), _summed(right, cells[0], num_labels)
                    )
                )
            )
        found.append(values[0] - values[1])
    return np.concatenate(found)


def _of_statistics(
    statistics: list[np.ndarray], of_statistics: Callable[[np.ndarray], np.ndarray], num_resamples: int
) -> np.ndarray:
    """Return the difference of both models' values on each resample, float[R], from two float[N, K]."""
    given = [each.astype(np.float64) for each in statistics]
    return _of_times(
        [lambda times, each=each: of_statistics(times.astype(np.float64) @ each) for each in given],
        len(given[0]),
        num_resamples,
    )


def _of_times(
    values: list[Callable[[np.ndarray], np.ndarray]], num_texts: int, num_resamples: int
) -> np.ndarray:
    """Return the difference of two functions of how often each text is in each resample, float[R]."""
    found = []
    for drawn in resamples(num_texts, num_resamples):
        places = drawn + num_texts * np.arange(len(drawn))[:, None]
        times = np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape)
        first, second = (each(times) for each in values)
        found.append(first - second)
    return np.concatenate(found)


def resamples(num_texts: int, num_resamples: int, num_labels: int = 1) -> Iterator[np.ndarray]:
    """Yield the indices of the texts of all resamples, in slices int[r, N] of bounded size."""
    generator = np.random.default_rng(_SEED)
    step = max(1, _MOST_VALUES // max(num_texts, num_labels))
    for start in range(0, num_resamples, step):
        yield generator.integers(num_texts, size=(min(step, num_resamples - start), num_texts))


def _summed(counts: np.ndarray, groups: np.ndarray, num_groups: int) -> np.ndarray:
    """Sum counts[r, K] over the columns of each group; groups int[K]; the result is [r, num_groups]."""
    order = np.argsort(groups, kind="stable")
    present, starts = np.unique(groups[order], return_index=True)
    found = np.zeros((len(counts), num_groups), counts.dtype)
    found[:, present] = np.add.reduceat(counts[:, order], starts, axis=1)
    return found
