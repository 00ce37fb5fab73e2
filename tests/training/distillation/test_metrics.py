"""Metrics of single labels with and without an out-of-scope class, worked by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from distiltune.training.tasks import SINGLE_LABEL

LABELS = np.array([0, 1, 2, 2, 1, 2])
PREDICTIONS = np.array([0, 1, 2, 1, 0, 2])


def test_shares_with_an_out_of_scope_class():
    assert SINGLE_LABEL.metrics(PREDICTIONS, LABELS, 2) == {
        "accuracy": pytest.approx(4 / 6),
        "in_scope_accuracy": pytest.approx(2 / 3),
        "oos_recall": pytest.approx(2 / 3),
    }


def test_logits_and_class_ids_give_the_same():
    logits = np.eye(3)[PREDICTIONS] * 4 - 1
    assert SINGLE_LABEL.metrics(SINGLE_LABEL.predictions(logits), LABELS, 2) == SINGLE_LABEL.metrics(
        PREDICTIONS, LABELS, 2
    )
    evaluated = [SimpleNamespace(predictions=each, label_ids=LABELS) for each in (logits, PREDICTIONS)]
    assert SINGLE_LABEL.compute_metrics(evaluated[0]) == SINGLE_LABEL.compute_metrics(evaluated[1])


def test_without_an_out_of_scope_class():
    assert SINGLE_LABEL.metrics(PREDICTIONS, LABELS) == {
        "accuracy": pytest.approx(4 / 6),
        "in_scope_accuracy": pytest.approx(4 / 6),
        "oos_recall": None,
    }


def test_with_such_a_class_but_no_such_text():
    metrics = SINGLE_LABEL.metrics(PREDICTIONS, LABELS, 9)
    assert metrics["oos_recall"] is None
    assert metrics["in_scope_accuracy"] == metrics["accuracy"]


def test_only_out_of_scope_texts():
    metrics = SINGLE_LABEL.metrics(np.array([2, 0]), np.array([2, 2]), 2)
    assert metrics == {"accuracy": 0.5, "in_scope_accuracy": 0.5, "oos_recall": 0.5}


@pytest.mark.parametrize(("predictions", "labels"), [([], []), ([0, 1], [0])])
def test_nothing_to_compare_is_refused(predictions, labels):
    with pytest.raises(ValueError, match=r"for .* labels"):
        SINGLE_LABEL.metrics(np.array(predictions), np.array(labels))


def test_compute_metrics_holds_only_what_has_a_value():
    evaluated = SimpleNamespace(predictions=PREDICTIONS, label_ids=LABELS)
    assert set(SINGLE_LABEL.compute_metrics(evaluated)) == {"accuracy", "in_scope_accuracy"}
