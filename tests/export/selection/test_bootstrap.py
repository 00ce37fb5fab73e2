"""The paired bootstrap: against scikit-learn on the resampled texts, its coverage, and where it has no width."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from distiltune.export.selection import bootstrap
from distiltune.export.selection.bootstrap import NUM_RESAMPLES, compare_in_metric, resamples
from distiltune.export.selection.paired_test import score_limits, texts_to_show
from distiltune.training.tasks import SINGLE_LABEL, Metric

NAMES = ["a", "b", "c", "d"]


def metric(name: str) -> Metric:
    return SINGLE_LABEL.metric(name, NAMES, 3)


def drawn(random: np.random.Generator, num_texts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the predictions of two classifiers, the first better at rare labels, and the labels."""
    labels = random.choice(4, num_texts, p=[0.6, 0.15, 0.1, 0.15])
    shared = np.where(random.random(num_texts) < 0.8, labels, random.integers(4, size=num_texts))
    first = np.where((random.random(num_texts) < 0.3) & (labels > 0), labels, shared)
    second = np.where(random.random(num_texts) < 0.05, 0, shared)
    return first, second, labels


@pytest.mark.parametrize(
    "name", ["macro_f1", "weighted_f1", "balanced_accuracy", "mcc", "recall.d", "oos_recall"]
)
def test_limits_are_those_of_a_slow_bootstrap(name):
    first, second, labels = drawn(np.random.default_rng(1), 400)
    found = compare_in_metric(first, second, labels, metric(name), confidence=0.9, num_resamples=60)
    measure = metric(name).measure
    rows = np.concatenate(list(resamples(400, 60)))
    assert rows.shape == (60, 400)
    slow = [(measure(first[r], labels[r]) or 0.0) - (measure(second[r], labels[r]) or 0.0) for r in rows]
    low, high = np.quantile(slow, [0.1, 0.9])
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.difference == pytest.approx((measure(first, labels) or 0) - (measure(second, labels) or 0))
    assert (found.method, found.metric, found.num_texts) == ("bootstrap", name, 400)
    assert found.only_first == int(((first == labels) & (second != labels)).sum())


def test_limits_are_the_same_again_and_do_not_depend_on_the_size_of_a_slice(monkeypatch):
    first, second, labels = drawn(np.random.default_rng(2), 61)
    found = compare_in_metric(first, second, labels, metric("macro_f1"), confidence=0.95, num_resamples=97)
    monkeypatch.setattr(bootstrap, "_MOST_VALUES", 61 * 7)
    again = compare_in_metric(first, second, labels, metric("macro_f1"), confidence=0.95, num_resamples=97)
    assert again == found


def test_limits_hold_about_as_often_as_they_say():
    """120 samples of 200 texts against the difference on 300,000; percentile limits are slightly too narrow."""
    random = np.random.default_rng(3)
    first, second, labels = drawn(random, 300_000)
    truth = f1_score(labels, first, average="macro") - f1_score(labels, second, average="macro")
    found = [
        compare_in_metric(*drawn(random, 200), metric("macro_f1"), confidence=0.9, num_resamples=120)
        for _ in range(120)
    ]
    below = np.mean([each.low <= truth for each in found])
    above = np.mean([each.high >= truth for each in found])
    assert 0.82 < below < 0.97
    assert 0.82 < above < 0.97


@pytest.mark.parametrize(
    ("name", "num_concerned"), [("macro_f1", 200), ("recall.d", 8), ("in_scope_accuracy", 192)]
)
def test_equal_predictions_are_no_proof_from_few_texts(name, num_concerned):
    """A bootstrap of equal predictions has no width; the score test of as many equal answers has."""
    labels = np.repeat([0, 3], [192, 8])
    found = compare_in_metric(labels, labels, labels, metric(name), confidence=0.95)
    assert (found.low, found.high) == score_limits(0, 0, num_concerned, confidence=0.95)
    assert (found.difference, found.p_value) == (0.0, 1.0)
    assert texts_to_show(found, 1e-6) is None


def test_where_lower_is_better_the_sign_is_reversed():
    """A metric that does not depend on counts alone is measured on each resample."""
    first, second, labels = drawn(np.random.default_rng(4), 90)
    accuracy = metric("accuracy")
    error = replace(
        accuracy, mode="min", of_counts=None, measure=lambda given, own: float((given != own).mean())
    )
    better = compare_in_metric(first, second, labels, accuracy, confidence=0.95, num_resamples=50)
    fewer = compare_in_metric(first, second, labels, error, confidence=0.95, num_resamples=50)
    assert fewer.difference == pytest.approx(better.difference)
    assert (fewer.low, fewer.high) == (pytest.approx(better.low), pytest.approx(better.high))


def test_a_clear_difference_has_a_small_p_value_and_none_a_large_one():
    labels = np.tile([0, 1, 2, 3], 50)
    worse = np.where(np.arange(200) % 5 == 0, 0, labels)
    found = compare_in_metric(labels, worse, labels, metric("macro_f1"), confidence=0.95)
    assert found.low > 0
    assert found.p_value == pytest.approx(2 / (NUM_RESAMPLES + 1))
    one, other = labels.copy(), labels.copy()
    one[:4], other[4:8] = [1, 2, 3, 0], [1, 2, 3, 0]
    assert compare_in_metric(one, other, labels, metric("macro_f1"), confidence=0.95).p_value > 0.5


def test_limits_narrow_with_the_root_of_the_number_of_texts():
    first, second, labels = drawn(np.random.default_rng(5), 100)
    found = replace(
        compare_in_metric(first, second, labels, metric("macro_f1"), confidence=0.95),
        difference=-0.01,
        low=-0.05,
    )
    assert texts_to_show(found, 0.03) == 300  # the width must halve, from 0.04 to 0.02: four times as many
    assert texts_to_show(found, 0.01) is None
    assert texts_to_show(found, 0.01 + 1e-9) is None


def test_one_text_that_is_gained_proves_no_more_than_equal_predictions():
    labels = np.repeat([0, 1], [180, 20])
    second = labels.copy()
    second[-1] = 0
    found = compare_in_metric(labels, second, labels, metric("recall.b"), confidence=0.95)
    equal = compare_in_metric(labels, labels, labels, metric("recall.b"), confidence=0.95)
    assert found.difference == pytest.approx(0.05)
    assert (
        found.low - found.difference
        == pytest.approx(equal.low)
        == pytest.approx(score_limits(0, 0, 20, confidence=0.95)[0])
    )
