"""Comparing two classifiers on the same texts, against published figures and plain NumPy."""

import json
import math
from itertools import product

import numpy as np
import pytest

from distiltune.errors import InputError
from distiltune.export.benchmark.accuracy.predictions import pack_answers, unpack_answers
from distiltune.export.selection.paired_test import (
    compare_paired,
    mcnemar_p_value,
    score_limits,
    texts_to_show,
)


@pytest.mark.parametrize(
    ("b", "c", "n", "limits"),
    [
        # Fagerland, Lydersen & Laake, "Recommended tests and confidence intervals for paired binomial proportions",
        # 2014: Bentur et al. 2009 and Cavo et al. 2012, Tango's limits at 95 % two-sided.
        (1, 7, 21, (-0.517, -0.026)),
        (6, 16, 161, (-0.124, -0.0054)),
    ],
)
def test_limits_are_those_of_published_examples(b: int, c: int, n: int, limits: tuple[float, float]) -> None:
    assert score_limits(b, c, n, confidence=0.975) == pytest.approx(limits, abs=5e-4)
    low, high = score_limits(c, b, n, confidence=0.975)
    assert (-high, -low) == pytest.approx(limits, abs=5e-4)


def score(b: int, c: int, n: int, difference: float) -> float:
    """Compute T at a difference, with the nuisance probability from a grid of likelihoods, not from the quadratic."""
    q = np.linspace(max(0.0, -difference), (1 - difference) / 2, 200_001)[1:-1]
    likelihood = b * np.log(q + difference) + c * np.log(q) + (n - b - c) * np.log1p(-2 * q - difference)
    q = q[likelihood.argmax()]
    return (b - c - n * difference) / math.sqrt(n * (2 * q + difference * (1 - difference)))


@pytest.mark.parametrize(("b", "c", "n"), [(3, 9, 200), (12, 5, 150), (0, 4, 80), (7, 7, 60)])
def test_limits_are_where_the_score_is_the_quantile(b: int, c: int, n: int) -> None:
    low, high = score_limits(b, c, n, confidence=0.95)
    assert low < (b - c) / n < high
    assert score(b, c, n, low) == pytest.approx(1.644854, abs=2e-3)
    assert score(b, c, n, high) == pytest.approx(-1.644854, abs=2e-3)


def test_equal_answers_leave_a_width_that_the_number_of_texts_sets() -> None:
    z2 = 1.6448536269514722**2
    for n in (1, 349, 3100):
        low, high = score_limits(0, 0, n, confidence=0.95)
        assert (low, high) == pytest.approx((-z2 / (n + z2), z2 / (n + z2)))
    assert score_limits(5, 0, 5, confidence=0.95)[1] == 1.0
    assert score_limits(0, 5, 5, confidence=0.95)[0] == -1.0


def test_limits_hold_as_often_as_they_say() -> None:
    """Exact, by the probability of every outcome of 60 pairs: the lower limit against the true difference."""
    n = 60
    outcomes = [(b, c) for b, c in product(range(n + 1), repeat=2) if b + c <= 30]
    low = np.array([score_limits(b, c, n, confidence=0.95)[0] for b, c in outcomes])
    ways = np.array([math.comb(n, b) * math.comb(n - b, c) for b, c in outcomes], dtype=float)
    b, c = np.array(outcomes).T
    for p_b, p_c in [(0.03, 0.05), (0.05, 0.05), (0.02, 0.1), (0.1, 0.03), (0.15, 0.15)]:
        chance = ways * p_b**b * p_c**c * (1 - p_b - p_c) ** (n - b - c)
        assert chance.sum() == pytest.approx(1, abs=1e-3)
        held = chance[low <= p_b - p_c + 1e-12].sum()
        assert 0.92 < held < 0.985, (p_b, p_c, held)


def test_p_value_is_that_of_a_fair_coin() -> None:
    for b, c in [(0, 0), (1, 0), (3, 7), (7, 3), (5, 19), (4, 4)]:
        chances = [math.comb(b + c, k) / 2 ** (b + c) for k in range(b + c + 1)]
        expected = sum(p for p in chances if p <= chances[b] * (1 + 1e-9))
        assert mcnemar_p_value(b, c) == pytest.approx(expected)
    assert 0 < mcnemar_p_value(3000, 3100) < 1


def test_only_texts_that_one_gets_wrong_count() -> None:
    first = np.array([True, True, False, False, True])
    second = np.array([True, False, True, False, False])
    found = compare_paired(first, second, confidence=0.95)
    assert (found.only_first, found.only_second, found.num_texts) == (2, 1, 5)
    assert found.difference == pytest.approx(0.2)
    assert found.low < 0.2 < found.high
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(("num_classes", "size"), [(2, 1), (256, 1), (257, 2), (70_000, 4)])
def test_answers_come_back_from_few_bytes(num_classes: int, size: int) -> None:
    generator = np.random.default_rng(0)
    labels, predictions = generator.integers(0, num_classes, (2, 1001))
    labels[::3] = predictions[::3]
    predictions[-1] = num_classes - 1
    packed = json.loads(json.dumps(pack_answers(predictions, predictions == labels)))
    assert len(json.dumps(packed)) < 1001 * (size + 1 / 8) * 4 / 3 + 120
    answers = unpack_answers(packed)
    assert (answers.predictions == predictions).all()
    assert (answers.right == (predictions == labels)).all()
    for fault in ({"num_texts": 2000}, {"num_texts": 10}, {"right": None}, {"predictions": "x"}):
        with pytest.raises(InputError, match=r"predictions of a measurement.*benchmark"):
            unpack_answers(packed | fault)


@pytest.mark.parametrize(
    ("b", "c", "n", "allowed"), [(20, 20, 300, 0.01), (4, 9, 1000, 0.01), (0, 0, 100, 0.01)]
)
def test_that_many_more_texts_would_show_it(b: int, c: int, n: int, allowed: float) -> None:
    found = compare_paired(*discordant(b, c, n), confidence=0.95)
    assert found.low < -allowed
    more = texts_to_show(found, allowed)
    assert more is not None
    for texts, is_shown in ((n + more, True), (n + more - 2, False)):
        times = texts / n
        low, _ = score_limits(b * times, c * times, n * times, confidence=0.95)
        assert (low >= -allowed - 1e-9) == is_shown


def test_no_number_of_texts_shows_a_loss_to_be_smaller_than_it_is() -> None:
    assert texts_to_show(compare_paired(*discordant(0, 10, 1000), confidence=0.95), 0.01) is None
    assert texts_to_show(compare_paired(*discordant(0, 11, 1000), confidence=0.95), 0.01) is None


def discordant(b: int, c: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which texts two classifiers get right: b only the first, and c only the second."""
    place = np.arange(n)
    return place >= c, (place < c) | (place >= c + b)
