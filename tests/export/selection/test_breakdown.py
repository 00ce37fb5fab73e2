"""Results by label and by slice, against figures counted by hand and with NumPy."""

from typing import Any

import numpy as np
import pytest

from distiltune.export.benchmark.accuracy.predictions import pack_answers
from distiltune.export.benchmark.measure_models import Measurement
from distiltune.export.config import ChooseConfig
from distiltune.export.selection.against_teacher import NUM_SLICES_SHOWN, compare_with_teacher
from distiltune.export.selection.breakdown import MOST_DRAWN, NUM_PAIRS, break_down
from distiltune.export.selection.slices import MOST_VALUES, NO_VALUE, OTHER_VALUES, measure_slices

NAMES = ["order", "return", "oos"]
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2])


def row(
    name: str, predictions: Any, labels: np.ndarray = LABELS, kind: str = "without_threshold"
) -> Measurement:
    times = {"mean": 1.0, "std": 0.0, "p50": 1.0, "p90": 1.0, "p99": 1.0}
    given = np.asarray(predictions)
    return Measurement(
        name=name,
        kind="onnx",
        size_mb=1.0,
        latency_ms=times,
        sample_latency_ms=times,
        throughput={},
        peak_memory_mb=1.0,
        num_threads=1,
        query="text",
        answers={"test": {kind: pack_answers(given, given == labels)}},
    )


def broken_down(
    predictions: Any, teacher: Any = None, slices: Any = None, labels: Any = LABELS, names: Any = NAMES
):
    base = None if teacher is None else row("teacher-pytorch", teacher, labels)
    return break_down(row("onnx", predictions, labels), base, labels, names, ChooseConfig(), slices or {})


def test_labels_are_measured_and_the_worst_comes_first() -> None:
    found = broken_down([0, 0, 0, 1, 1, 1, 0, 1], teacher=[0, 0, 0, 0, 1, 0, 0, 2])
    assert found is not None
    assert [each["label"] for each in found["labels"]] == ["oos", "return", "order"]
    outside, returned, ordered = found["labels"]
    assert outside == {
        "label": "oos",
        "precision": None,
        "recall": 0.0,
        "f1": 0.0,
        "num_texts": 1,
        "teacher_recall": 1.0,
    }
    assert (returned["precision"], returned["recall"]) == (0.5, pytest.approx(2 / 3))
    assert returned["teacher_recall"] == pytest.approx(1 / 3)
    assert (ordered["precision"], ordered["recall"], ordered["f1"]) == (0.75, 0.75, 0.75)
    assert found["confusion"] == {"labels": NAMES, "counts": [[3, 1, 0], [1, 2, 0], [0, 1, 0]]}
    assert {tuple(each.values()) for each in found["pairs"]} == {
        ("order", "return", 1),
        ("return", "order", 1),
        ("oos", "return", 1),
    }


def test_the_figures_are_those_of_numpy() -> None:
    random = np.random.default_rng(0)
    names = [f"label {number}" for number in range(12)]
    labels, predictions = random.integers(0, 12, 600), random.integers(0, 12, 600)
    found = broken_down(predictions, labels=labels, names=names)
    assert found is not None
    by_name = {each["label"]: each for each in found["labels"]}
    for number, name in enumerate(names):
        hits = ((labels == number) & (predictions == number)).sum()
        num_given, num_true = (predictions == number).sum(), (labels == number).sum()
        precision, recall = hits / num_given, hits / num_true
        each = by_name[name]
        assert (each["precision"], each["recall"]) == (pytest.approx(precision), pytest.approx(recall))
        assert each["f1"] == pytest.approx(2 * hits / (num_given + num_true))
        assert each["num_texts"] == num_true
        for other, count in enumerate(found["confusion"]["counts"][number]):
            assert count == ((labels == number) & (predictions == other)).sum()
    f1 = [each["f1"] for each in found["labels"]]
    assert f1 == sorted(f1)
    assert {each["teacher_recall"] for each in found["labels"]} == {None}


def test_many_labels_have_pairs_instead_of_a_matrix() -> None:
    num = MOST_DRAWN + 1
    labels = np.repeat(np.arange(num), 2)
    predictions = labels.copy()
    predictions[:60:2] += 1
    predictions[1] = 1
    found = broken_down(predictions, labels=labels, names=[f"label {number}" for number in range(num)])
    assert found is not None
    assert found["confusion"]["counts"] is None
    assert len(found["labels"]) == num
    assert len(found["pairs"]) == NUM_PAIRS
    assert found["pairs"][0] == {"label": "label 0", "predicted": "label 1", "num_texts": 2}


def test_labels_that_do_not_occur_are_left_out_and_that_of_a_threshold_has_no_recall() -> None:
    found = broken_down([0, 0, 0, 0, 4, 1, 1, 0], names=[*NAMES, "unused", "refused"])
    assert found is not None
    assert found["confusion"]["labels"] == [*NAMES, "refused"]
    assert next(each for each in found["labels"] if each["label"] == "refused")["recall"] is None


def test_the_breakdown_is_of_what_the_artifact_predicts() -> None:
    variant = row("onnx", LABELS)
    refused = np.full(8, 2)
    answers = {
        "test": {**variant.answers["test"], "with_threshold": pack_answers(refused, refused == LABELS)}
    }  # pyright: ignore[reportOptionalSubscript]
    both = Measurement(
        **{**variant.to_json(), "answers": answers, "with_threshold": {"validation_accuracy": 0.9}}
    )
    found = break_down(both, None, LABELS.tolist(), NAMES, ChooseConfig(), {})
    assert found is not None
    assert found["accuracy_kind"] == "with_threshold"
    assert found["confusion"]["counts"] == [[0, 0, 4], [0, 0, 3], [0, 0, 1]]
    bare = Measurement(**{**variant.to_json(), "answers": None})
    assert break_down(bare, None, LABELS.tolist(), NAMES, ChooseConfig(), {}) is None


# ---- Slices ---------------------------------------------------------------------------------------------


def test_each_value_of_each_column_is_measured() -> None:
    slices = {
        "channel": ["mail", "mail", "chat", "mail", "chat", None, "mail", None],
        "language": ["de"] * 8,
    }
    right = np.array([1, 1, 0, 1, 1, 0, 0, 1], dtype=bool)
    teacher = np.array([1, 1, 1, 1, 1, 1, 1, 0], dtype=bool)
    found = measure_slices(slices, right, teacher)
    assert [(each["column"], each["value"], each["num_texts"]) for each in found] == [
        ("channel", "mail", 4),
        ("channel", NO_VALUE, 2),
        ("channel", "chat", 2),
        ("language", "de", 8),
    ]
    mail = found[0]
    assert (mail["accuracy"], mail["teacher_accuracy"], mail["difference"]) == (0.75, 1.0, -0.25)
    assert (mail["num_right"], mail["teacher_num_right"]) == (3, 4)
    alone = measure_slices(slices, right)
    assert [each["accuracy"] for each in alone] == [each["accuracy"] for each in found]
    assert "teacher_accuracy" not in alone[0]
    assert measure_slices({}, right) == []


def test_at_most_twenty_values_are_shown_and_the_others_together() -> None:
    values = [f"v{number:02}" for number in range(30) for _ in range(30 - number)]
    right = np.arange(len(values)) % 3 > 0
    found = measure_slices({"shop": values}, right)
    assert [each["value"] for each in found] == [
        *(f"v{number:02}" for number in range(MOST_VALUES)),
        OTHER_VALUES,
    ]
    assert found[-1]["num_texts"] == sum(range(1, 11))
    assert sum(each["num_texts"] for each in found) == len(values)
    assert sum(each["num_right"] for each in found) == right.sum()
    exactly = measure_slices({"shop": [f"v{number}" for number in range(MOST_VALUES)]}, right[:MOST_VALUES])
    assert OTHER_VALUES not in [each["value"] for each in exactly]


def test_the_summary_names_the_slices_that_lose_most() -> None:
    labels, teacher = np.zeros(90, dtype=int), np.zeros(90, dtype=int)
    predictions = np.zeros(90, dtype=int)
    values = np.repeat([f"shop {number}" for number in range(9)], 10)
    for shop, num_lost in enumerate([0, 3, 1, 0, 7, 2, 5, 4, 0]):
        predictions[shop * 10 : shop * 10 + num_lost] = 1
    teacher[0] = 1
    rows = row("onnx", predictions, labels), row("teacher-pytorch", teacher, labels)
    found = compare_with_teacher(
        *rows, labels.tolist(), NAMES, ChooseConfig(), slices={"shop": values.tolist(), "all": [None] * 90}
    )
    assert found is not None
    assert len(found.slices) == NUM_SLICES_SHOWN
    shown = [(each.column, each.value, each.teacher_num_right - each.num_right) for each in found.slices]
    assert shown == [
        ("all", NO_VALUE, 21),
        ("shop", "shop 4", 7),
        ("shop", "shop 6", 5),
        ("shop", "shop 7", 4),
        ("shop", "shop 1", 3),
    ]
    assert found.to_json()["slices"][1] == {
        "column": "shop",
        "value": "shop 4",
        "num_texts": 10,
        "num_right": 3,
        "teacher_num_right": 10,
    }
    without = compare_with_teacher(*rows, labels.tolist(), NAMES, ChooseConfig())
    assert without is not None
    assert without.slices == []
