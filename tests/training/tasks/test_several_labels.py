"""Metrics of several labels and of numbers, against scikit-learn and SciPy, and their bootstrap against measuring."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk

from distiltune.errors import InputError
from distiltune.export.benchmark.accuracy.predictions import Answers, pack_answers, unpack_answers
from distiltune.export.selection.bootstrap import compare_in_metric, resamples
from distiltune.export.selection.gate import compare_answers, value_of
from distiltune.training.tasks import MULTI_LABEL, REGRESSION, Task
from distiltune.training.tasks.multi_label import precision_of_draws

NAMES = ["air", "earth", "fire", "water"]
NUM_TEXTS = 240


def drawn_sets(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of two models, the first of which is better, and labels of which the last is rare."""
    random = np.random.default_rng(seed)
    labels = (random.random((NUM_TEXTS, 4)) < [0.5, 0.3, 0.2, 0.04]).astype(np.int8)
    first = random.normal(size=labels.shape) + 3 * labels - 1
    second = random.normal(size=labels.shape) + 1.5 * labels - 0.7
    return first.astype(np.float32), second.astype(np.float32), labels


def drawn_numbers(seed: int = 0, num: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.normal(5000, 40, (NUM_TEXTS, num)).astype(np.float32)
    first = labels + random.normal(0, 15, labels.shape)
    second = 0.5 * labels + random.normal(0, 25, labels.shape) + 2500
    return first.astype(np.float32), second.astype(np.float32), labels


OF_SKLEARN = {
    "macro_f1": lambda y, p: sk.f1_score(y, p, average="macro"),
    "micro_f1": lambda y, p: sk.f1_score(y, p, average="micro"),
    "weighted_f1": lambda y, p: sk.f1_score(y, p, average="weighted"),
    "macro_precision": lambda y, p: sk.precision_score(y, p, average="macro"),
    "macro_recall": lambda y, p: sk.recall_score(y, p, average="macro"),
    "micro_precision": lambda y, p: sk.precision_score(y, p, average="micro"),
    "micro_recall": lambda y, p: sk.recall_score(y, p, average="micro"),
    "subset_accuracy": sk.accuracy_score,
    "f1.fire": lambda y, p: sk.f1_score(y[:, 2], p[:, 2]),
    "recall.water": lambda y, p: sk.recall_score(y[:, 3], p[:, 3]),
    "precision.air": lambda y, p: sk.precision_score(y[:, 0], p[:, 0]),
}


@pytest.mark.parametrize("name", list(OF_SKLEARN))
def test_metrics_of_sets_are_those_of_scikit_learn(name) -> None:
    logits, _, labels = drawn_sets()
    expected = OF_SKLEARN[name](labels, logits > 0)
    metric = MULTI_LABEL.metric(name, NAMES)
    assert metric.measure(MULTI_LABEL.predictions(logits), labels) == pytest.approx(expected)
    assert metric.title.lower().startswith(name.partition(".")[0].split("_")[0])


def test_every_metric_of_sets_has_a_reference() -> None:
    named = {name for name in OF_SKLEARN if "." not in name}
    assert named | {"map"} == set(MULTI_LABEL.metric_names)
    assert {name.partition(".")[0] for name in OF_SKLEARN if "." in name} == set(MULTI_LABEL.label_metrics)


@pytest.mark.parametrize("digits", [None, 0])
def test_average_precision_is_that_of_scikit_learn(digits) -> None:
    """Also with ties."""
    logits, _, labels = drawn_sets()
    logits = logits if digits is None else np.round(logits, digits)
    found = MULTI_LABEL.metric("map", NAMES).measure(logits, labels)
    assert found == pytest.approx(sk.average_precision_score(labels, logits, average="macro"))
    without = labels.copy()
    without[:, 3] = 0
    expected = sk.average_precision_score(labels[:, :3], logits[:, :3], average="macro")
    assert MULTI_LABEL.metric("map", NAMES).measure(logits, without) == pytest.approx(expected)
    assert MULTI_LABEL.metric("map", NAMES).measure(logits, np.zeros_like(labels)) is None


@pytest.mark.parametrize("digits", [None, 1, 0])
def test_average_precision_of_all_draws_is_that_of_scikit_learn_on_each(digits) -> None:
    """With ties, texts that are drawn several times or never, and labels that no drawn text has."""
    logits, _, labels = drawn_sets(3)
    logits = logits[:40] if digits is None else np.round(logits[:40], digits)
    labels = labels[:40]
    labels[:, 3] = np.arange(40) == 7
    rows = np.random.default_rng(1).integers(40, size=(60, 40))
    times = np.stack([np.bincount(each, minlength=40) for each in rows])
    found = precision_of_draws(logits, labels)(times)
    there = [labels[each].any(axis=0) for each in rows]
    assert not all(each.all() for each in there) and any(each.all() for each in there)
    expected = [
        sk.average_precision_score(labels[each][:, kept], logits[each][:, kept], average="macro")
        for each, kept in zip(rows, there, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    weighted = [sk.average_precision_score(labels[:, 0], logits[:, 0], sample_weight=each) for each in times]
    np.testing.assert_allclose(
        precision_of_draws(logits[:, :1], labels[:, :1])(times), weighted, rtol=0, atol=1e-12
    )


def test_a_draw_without_any_label_has_no_precision() -> None:
    labels = np.array([[1, 0], [0, 0]], dtype=np.int8)
    found = precision_of_draws(np.array([[0.5, 0.1], [0.7, 0.2]]), labels)(np.array([[0, 2], [1, 1], [2, 0]]))
    assert found.tolist() == [0.0, 0.5, 1.0]


def test_the_bootstrap_of_average_precision_measures_no_draw_by_itself() -> None:
    first, second, labels = drawn_sets(4)
    metric = MULTI_LABEL.metric("map", NAMES)
    right = MULTI_LABEL.correct(first, labels), MULTI_LABEL.correct(second, labels)
    given = (first, second, labels)
    found = compare_in_metric(*given, metric, confidence=0.9, num_resamples=60, right=right)
    slow = replace(metric, of_draws=None)
    again = compare_in_metric(*given, slow, confidence=0.9, num_resamples=60, right=right)
    assert (found.low, found.high, found.p_value) == pytest.approx((again.low, again.high, again.p_value))
    counted: list[int] = []

    def measured(predictions: np.ndarray, labels: np.ndarray) -> float | None:
        counted.append(len(predictions))
        return metric.measure(predictions, labels)

    compare_in_metric(*given, replace(metric, measure=measured), confidence=0.9, right=right)
    assert len(counted) == 2, "of all texts, once for each model"


def test_labels_that_nothing_has_do_not_count_in_a_macro_average() -> None:
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]], dtype=np.int8)
    logits = np.where(labels > 0, 1.0, -1.0).astype(np.float32)
    assert MULTI_LABEL.metrics(MULTI_LABEL.predictions(logits), labels)["macro_f1"] == 1
    nothing = MULTI_LABEL.metrics(np.full((2, 3), -1.0), np.zeros((2, 3), np.int8))
    assert nothing == {"macro_f1": 0.0, "micro_f1": 0.0, "subset_accuracy": 1.0, "map": None}


def test_unknown_labels_and_metrics_are_refused_with_the_nearest() -> None:
    for name, parts in (("f1.fier", "f1.fire"), ("f1.zzz", "its labels: air"), ("makro_f1", "macro_f1")):
        with pytest.raises(InputError, match=parts):
            MULTI_LABEL.metric(name, NAMES)
    with pytest.raises(InputError, match="pearson"):
        REGRESSION.metric("persons", ["score"])


def test_predictions_in_16_bits_keep_their_side() -> None:
    logits = np.array([[1e-12, -1e-12, 0.0, 1e9], [-1e9, 3.0, -3.0, 5e-8]], dtype=np.float32)
    assert ((MULTI_LABEL.predictions(logits) > 0) == (logits > 0)).all()
    assert np.isfinite(MULTI_LABEL.predictions(logits)).all()


@pytest.mark.parametrize("num", [1, 3])
def test_metrics_of_numbers_are_those_of_scipy(num) -> None:
    outputs, _, labels = drawn_numbers(num=num)
    found = REGRESSION.metrics(REGRESSION.predictions(outputs), labels)
    pairs = list(zip(outputs.T.astype(float), labels.T.astype(float), strict=True))
    expected = {
        "pearson": np.mean([stats.pearsonr(x, y)[0] for x, y in pairs]),
        "spearman": np.mean([stats.spearmanr(x, y)[0] for x, y in pairs]),
        "rmse": np.mean([np.sqrt(((x - y) ** 2).mean()) for x, y in pairs]),
    }
    assert found == pytest.approx(expected)
    rounded = np.round(outputs, -1), np.round(labels, -1)  # with ties
    expected["spearman"] = np.mean(
        [stats.spearmanr(*each)[0] for each in zip(*(v.T for v in rounded), strict=True)]
    )
    assert REGRESSION.metrics(*rounded)["spearman"] == pytest.approx(expected["spearman"])


def test_outputs_that_are_all_equal_have_no_correlation() -> None:
    _, _, labels = drawn_numbers()
    for value in (0.0, 0.1, 1e7):
        found = REGRESSION.metrics(np.full_like(labels, value), labels)
        assert (found["pearson"], found["spearman"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("task", "name"),
    [
        *((MULTI_LABEL, name) for name in ("macro_f1", "micro_f1", "f1.water", "weighted_f1")),
        *((REGRESSION, name) for name in ("pearson", "rmse", "spearman")),
    ],
    ids=lambda each: each if isinstance(each, str) else each.name,
)
def test_limits_are_those_of_a_slow_bootstrap(task: Task, name: str) -> None:
    first, second, labels = drawn_sets(1) if task is MULTI_LABEL else drawn_numbers(1, 2)
    first, second = task.predictions(first), task.predictions(second)
    metric = task.metric(name, NAMES)
    found = compare_in_metric(first, second, labels, metric, confidence=0.9, num_resamples=40)
    rows = np.concatenate(list(resamples(NUM_TEXTS, 40)))
    slow = [
        metric.sign * (metric.measure(first[r], labels[r]) - metric.measure(second[r], labels[r]))
        for r in rows
    ]
    low, high = np.quantile(slow, [0.1, 0.9])
    assert (found.low, found.high) == (pytest.approx(low, rel=1e-4), pytest.approx(high, rel=1e-4))
    assert found.difference > 0, "the first is better, whatever the sign of the metric"
    assert (found.only_first, found.metric) == (None, name)


def test_the_share_of_right_sets_is_compared_text_by_text() -> None:
    first, second, labels = drawn_sets(2)
    answers = [
        Answers(given := MULTI_LABEL.predictions(each), MULTI_LABEL.correct(given, labels), labels)
        for each in (first, second)
    ]
    metric = MULTI_LABEL.metric("subset_accuracy", NAMES)
    found = compare_answers(*answers, metric, confidence=0.95)
    assert found is not None and (found.method, found.metric) == ("score", "subset_accuracy")
    assert found.difference == pytest.approx(value_of(answers[0], metric) - value_of(answers[1], metric))
    by_f1 = compare_answers(*answers, MULTI_LABEL.metric("macro_f1", NAMES), confidence=0.95)
    assert by_f1 is not None and by_f1.method == "bootstrap"
    assert by_f1.only_first == found.only_first
    same = compare_answers(answers[0], answers[0], MULTI_LABEL.metric("macro_f1", NAMES), confidence=0.95)
    assert same is not None and same.low < 0 < same.high, "equal predictions are no proof from few texts"


def test_predictions_and_labels_of_any_shape_come_back() -> None:
    first, _, labels = drawn_sets()
    given = MULTI_LABEL.predictions(first)
    found = unpack_answers(pack_answers(given, MULTI_LABEL.correct(given, labels), labels))
    assert (found.predictions == given).all() and (found.labels == labels).all()
    assert found.predictions.dtype == np.float16
    assert found.right is not None and found.right.shape == (NUM_TEXTS,)
    numbers, _, targets = drawn_numbers(num=2)
    found = unpack_answers(pack_answers(numbers, None, targets))
    assert (found.predictions == numbers).all() and (found.labels == targets).all() and found.right is None
    for fault in ({"num_texts": 3}, {"predictions_form": ["<f4", 7]}, {"labels": "x"}):
        with pytest.raises(InputError, match=r"predictions of a measurement.*benchmark"):
            unpack_answers(pack_answers(numbers, None, targets) | fault)


def test_label_smoothing_moves_both_sides_by_half() -> None:
    logits, _, labels = (torch.from_numpy(each[:5]) for each in drawn_sets())
    smooth = labels.float() * 0.8 + 0.1
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, smooth)
    torch.testing.assert_close(MULTI_LABEL.hard_loss(logits, labels, label_smoothing=0.2), expected)


def test_the_losses_are_those_of_transformers() -> None:
    logits, _, labels = (torch.from_numpy(each) for each in drawn_sets())
    torch.testing.assert_close(
        MULTI_LABEL.hard_loss(logits, labels), torch.nn.BCEWithLogitsLoss()(logits, labels.float())
    )
    outputs, _, numbers = (torch.from_numpy(each) for each in drawn_numbers(num=3))
    torch.testing.assert_close(REGRESSION.hard_loss(outputs, numbers), torch.nn.MSELoss()(outputs, numbers))


def test_rows_without_labels_have_neither_loss_nor_gradient() -> None:
    for task, (logits, _, labels) in ((MULTI_LABEL, drawn_sets()), (REGRESSION, drawn_numbers(num=2))):
        given = torch.from_numpy(logits[:4]).requires_grad_()
        known = labels[:4].copy()
        known[2:] = task.missing_labels(2, labels.shape[1])
        task.hard_loss(given, torch.from_numpy(known)).backward()
        assert given.grad is not None and given.grad[:2].abs().min() > 0 and not given.grad[2:].any()


def test_a_head_of_several_labels_begins_with_their_shares() -> None:
    labels = np.zeros((999, 3), dtype=np.int8)
    labels[:499, 0] = labels[:49, 1] = 1  # the last one has no text
    head = torch.nn.Linear(8, 3)
    before = head.weight.detach().clone()
    MULTI_LABEL.start_head(head, labels)
    scores = head.bias.detach().sigmoid().numpy()
    np.testing.assert_allclose(scores, [0.4995, 0.0495, 0.0005], rtol=1e-4)
    assert torch.equal(head.weight.detach(), before)
    MULTI_LABEL.start_head(torch.nn.Linear(8, 3, bias=False), labels)


def test_a_head_of_numbers_begins_at_their_mean_and_learns_at_their_scale() -> None:
    _, _, labels = drawn_numbers(num=2)
    missing = REGRESSION.missing_labels(3, 2)
    assert REGRESSION.head_scale(np.concatenate([labels, missing])) == pytest.approx(40, rel=0.1)
    assert REGRESSION.head_scale(labels[:1]) == 1
    head = torch.nn.Linear(8, 2)
    before = head.weight.detach().clone()
    REGRESSION.start_head(head, labels)
    torch.testing.assert_close(head.bias.detach(), torch.tensor(labels.mean(axis=0)), rtol=1e-4, atol=0.0)
    torch.testing.assert_close(head.weight.detach(), before * REGRESSION.head_scale(labels))
