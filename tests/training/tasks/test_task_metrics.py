"""Metrics against scikit-learn and plain Python, on predictions and on counts; their names; what they select."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn

from distiltune.errors import InputError
from distiltune.training.tasks import SINGLE_LABEL, LabelCounts, title_of
from distiltune.training.teacher.best_epoch import BestEpoch

NAMES = ["a", "b", "c", "d e", "oos", "never"]
OUTSIDE = 4
ALL = [
    *SINGLE_LABEL.metric_names,
    "recall.b",
    "precision.c",
    "f1.d e",
    "recall.never",
    "precision.never",
    "f1.oos",
]


def drawn(seed: int, num_texts: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels of skewed classes; none is "never", and some seeds lack other labels."""
    random = np.random.default_rng(seed)
    labels = random.choice(5, num_texts, p=[0.6, 0.2, 0.12, 0.05, 0.03])
    return np.where(random.random(num_texts) < 0.7, labels, random.integers(5, size=num_texts)), labels


def of_one_label(predictions: np.ndarray, labels: np.ndarray, label: int) -> tuple[float, float, float]:
    """Precision, recall and F1 by counting one text after another."""
    pairs = list(zip(predictions.tolist(), labels.tolist(), strict=True))
    right = sum(given == label == own for given, own in pairs)
    predicted, texts = sum(given == label for given, _ in pairs), sum(own == label for _, own in pairs)
    precision, recall = right / predicted if predicted else 0.0, right / texts if texts else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def slow_metric(name: str, predictions: np.ndarray, labels: np.ndarray) -> float:
    """A metric in plain Python."""
    kind, _, label = name.partition(".")
    places = {"precision": 0, "recall": 1, "f1": 2}
    if label:
        return of_one_label(predictions, labels, NAMES.index(label))[places[kind]]
    own, seen = sorted(set(labels.tolist())), sorted({*labels.tolist(), *predictions.tolist()})
    scores = {each: of_one_label(predictions, labels, each) for each in seen}
    n, share = len(labels), {each: float((labels == each).mean()) for each in seen}
    right = [given == own for given, own in zip(predictions, labels, strict=True)]
    inside = [each for each, label in zip(right, labels, strict=True) if label != OUTSIDE]
    correlation = sum(right) / n - sum(share[each] * (predictions == each).mean() for each in seen)
    spread = (1 - sum(each**2 for each in share.values())) * (
        1 - sum(float((predictions == each).mean()) ** 2 for each in seen)
    )
    return {
        "accuracy": lambda: sum(right) / n,
        "in_scope_accuracy": lambda: sum(inside) / len(inside),
        "oos_recall": lambda: of_one_label(predictions, labels, OUTSIDE)[1],
        "balanced_accuracy": lambda: sum(scores[each][1] for each in own) / len(own),
        "macro_f1": lambda: sum(scores[each][2] for each in seen) / len(seen),
        "weighted_f1": lambda: sum(share[each] * scores[each][2] for each in seen),
        "macro_precision": lambda: sum(scores[each][0] for each in seen) / len(seen),
        "mcc": lambda: correlation / math.sqrt(spread) if spread else 0.0,
    }[name]()


BY_SKLEARN: dict[str, Callable[..., float]] = {
    "accuracy": sklearn.accuracy_score,
    "balanced_accuracy": sklearn.balanced_accuracy_score,
    "macro_f1": lambda *arrays: sklearn.f1_score(*arrays, average="macro", zero_division=0),
    "weighted_f1": lambda *arrays: sklearn.f1_score(*arrays, average="weighted", zero_division=0),
    "macro_precision": lambda *arrays: sklearn.precision_score(*arrays, average="macro", zero_division=0),
    "mcc": sklearn.matthews_corrcoef,
}


@pytest.mark.parametrize("name", ALL)
def test_a_metric_is_that_of_a_slow_reference_and_counts_give_the_same(name):
    metric = SINGLE_LABEL.metric(name, NAMES, OUTSIDE)
    for seed in range(8):
        predictions, labels = drawn(seed, 40 + 20 * seed)
        labels[0], predictions[1] = OUTSIDE, 5  # one text is outside, and one gets a label that no text has
        expected = slow_metric(name, predictions, labels)
        assert metric.measure(predictions, labels) == pytest.approx(expected)
        assert metric.of_counts is not None
        assert metric.of_counts(LabelCounts.of(predictions, labels)) == pytest.approx(expected)


@pytest.mark.parametrize("name", BY_SKLEARN)
def test_a_metric_is_that_of_scikit_learn(name):
    for seed in range(5):
        predictions, labels = drawn(seed)
        labels[:5] = range(5)
        expected = BY_SKLEARN[name](labels, predictions)
        assert SINGLE_LABEL.metric(name, NAMES).measure(predictions, labels) == pytest.approx(
            expected, abs=1e-12
        )


@pytest.mark.parametrize("name", [each for each in ALL if each not in ("in_scope_accuracy", "oos_recall")])
def test_texts_of_one_label_are_no_error(name):
    """Ratios whose divisor is 0 and an undefined correlation are 0, without a warning."""
    metric = SINGLE_LABEL.metric(name, NAMES)
    labels = np.full(7, 2)
    for predictions in (labels, np.full(7, 1)):
        value = metric.measure(predictions, labels)
        assert value is not None and metric.of_counts is not None
        assert value in (0.0, 1.0)
        counts = LabelCounts(
            *(np.bincount(each, minlength=6) for each in (labels, predictions, labels[predictions == labels]))
        )
        assert float(metric.of_counts(counts)) == pytest.approx(value)


def test_in_scope_metrics_without_an_out_of_scope_class():
    predictions, labels = drawn(0)
    for outside in (None, 5):
        metric = SINGLE_LABEL.metric("in_scope_accuracy", NAMES, outside)
        assert metric.measure(predictions, labels) == pytest.approx((predictions == labels).mean())
    assert SINGLE_LABEL.metric("oos_recall", NAMES).measure(predictions, labels) is None
    everything = np.full(6, OUTSIDE)
    inside = SINGLE_LABEL.metric("in_scope_accuracy", NAMES, OUTSIDE)
    assert inside.of_counts is not None
    assert inside.of_counts(LabelCounts.of(np.array([4, 4, 0, 0, 0, 0]), everything)) == pytest.approx(2 / 6)


def test_every_epoch_has_the_usual_metrics_and_requested_ones():
    predictions, labels = drawn(3)
    usual = SINGLE_LABEL.measured(predictions, labels, OUTSIDE)
    assert list(usual) == [*SINGLE_LABEL.metric_modes, "balanced_accuracy", "macro_f1", "weighted_f1"]
    more = SINGLE_LABEL.measured(
        predictions, labels, OUTSIDE, also=["recall.d e", "macro_f1", "mcc"], label_names=NAMES
    )
    assert list(more) == [*usual, "recall.d e", "mcc"]
    for name, value in more.items():
        assert value == pytest.approx(slow_metric(name, predictions, labels))


def test_names_are_shown_as_words():
    names = ("macro_f1", "mcc", "recall.refund", "f1.no_one", "balanced_accuracy")
    titles = ["macro F1", "MCC", "recall of refund", "F1 of no_one", "balanced accuracy"]
    assert list(map(title_of, names)) == titles


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("macro_f", ["'macro_f'", "'macro_f1'", "weighted_f1", "recall.LABEL"]),
        ("recal.b", ["'recal.b'", "recall.LABEL", "accuracy"]),
        ("recall", ["'recall'", "recall.LABEL"]),
        ("recall.", ["'recall.'"]),
        ("macro_f1.b", ["'macro_f1.b'"]),
        ("recall.d", ["'recall.d'", "'d'", "recall.d e"]),
        ("f1.nothing like it", ["no label 'nothing like it'", "a, b, c, d e"]),
    ],
)
def test_an_unknown_metric_is_refused_with_the_accepted_ones(name, parts):
    with pytest.raises(InputError, match=r"^metric: ") as error:
        SINGLE_LABEL.metric(name, NAMES)
    for part in parts:
        assert part in str(error.value)


def test_accuracy_and_macro_f1_select_different_epochs_of_skewed_data():
    """95 of 100 texts have the common label: the first epoch misses the rare one, the second 6 common texts."""
    labels = np.repeat([0, 1], [95, 5])
    lazy, fair = np.zeros(100, int), np.where(np.arange(100) < 6, 1, labels)

    def best_in(metric: str) -> tuple[float | None, list[dict[str, float]]]:
        epochs = iter([lazy, fair])
        best = BestEpoch(
            torch.nn.Linear(1, 1),  # pyright: ignore[reportArgumentType]
            lambda: SINGLE_LABEL.measured(next(epochs), labels, also=[metric], label_names=["usual", "rare"]),
            None,
            metric,
            SINGLE_LABEL.metric_mode(metric),
        )
        for number in (1.0, 2.0):
            best.on_epoch_end(None, SimpleNamespace(epoch=number), None)
        return best.number, best.epochs

    assert best_in("accuracy")[0] == 1
    assert [best_in(metric)[0] for metric in ("macro_f1", "balanced_accuracy", "recall.rare")] == [2, 2, 2]
    assert [each["validation_recall.rare"] for each in best_in("recall.rare")[1]] == [0.0, 1.0]


@pytest.mark.parametrize(
    "name", ["recall.never", "precision.never", "f1.never", "oos_recall", "in_scope_accuracy"]
)
def test_a_label_beyond_all_that_occur_is_counted_as_none(name) -> None:
    predictions, labels = np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2])
    counts = LabelCounts(
        *(np.bincount(each, minlength=3) for each in (labels, predictions)), np.array([1, 1, 1])
    )
    found = SINGLE_LABEL.metric(name, NAMES, OUTSIDE).of_counts(counts)
    assert found == pytest.approx(0.75 if name == "in_scope_accuracy" else 0.0)
