"""Models that predict several labels or numbers: judged by their logits, compared, and shown in a report."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from distiltune.errors import InputError
from distiltune.export.artifact.card import model_card
from distiltune.export.benchmark.accuracy.judge import judge
from distiltune.export.benchmark.measure_models import BenchmarkTexts, Measurement
from distiltune.export.benchmark.targets.outputs import ScoredModel
from distiltune.export.config import ChooseConfig
from distiltune.export.report.report import build_report, write_report
from distiltune.export.runtime.scores import LabelThresholds
from distiltune.export.selection.against_teacher import compare_with_teacher
from distiltune.export.selection.breakdown import break_down
from distiltune.export.selection.select_variant import select_variant
from distiltune.training.tasks import MULTI_LABEL, REGRESSION, Task

NAMES = ["air", "fire", "water"]
NUM_TEXTS = 150
TIMES = dict.fromkeys(("mean", "std", "p50", "p90", "p99"), 1.0)
SETTINGS = {"goal": "f1", "at_least": 0.9, "min_texts": 1}


def texts_of(task: Task) -> dict[str, Any]:
    random = np.random.default_rng(5)
    labels = random.normal(3, 1, (2, NUM_TEXTS, 3)).astype(np.float32)
    if task is MULTI_LABEL:
        labels = (random.random((2, NUM_TEXTS, 3)) < [0.5, 0.3, 0.1]).astype(np.int8)
    texts = [f"text {n}" for n in range(NUM_TEXTS)]
    given = BenchmarkTexts(
        texts, labels[0].tolist(), texts, labels[1].tolist(), NAMES, task=task.name,
        label_thresholds=SETTINGS if task is MULTI_LABEL else None,
    )  # fmt: skip
    return {name: getattr(given, name) for name in given.__dataclass_fields__}


def logits_of(texts: dict[str, Any], noise: float, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        split: (
            2.0 * np.array(texts[f"{split}_labels"]) - 1.5 + random.normal(0, noise, (NUM_TEXTS, 3))
        ).astype(np.float32)
        for split in ("validation", "test")
    }


def measured(name: str, kind: str, texts: dict[str, Any], noise: float, seed: int) -> Measurement:
    found = judge(ScoredModel(NAMES, logits_of(texts, noise, seed)), texts, None)
    json.dumps(found, allow_nan=False)
    return Measurement(name, kind, 1.0, TIMES, TIMES, {"1": 1.0}, 1.0, 1, "text", **found)


@pytest.mark.parametrize("task", [MULTI_LABEL, REGRESSION], ids=lambda task: task.name)
def test_a_model_is_judged_in_the_order_of_the_data(task: Task) -> None:
    texts = texts_of(task)
    logits = logits_of(texts, 0.7, 0)
    found = judge(ScoredModel(NAMES, logits), texts, None)
    turned = judge(
        ScoredModel([*reversed(NAMES)], {split: each[:, ::-1] for split, each in logits.items()}), texts, None
    )
    assert found == turned
    assert "accuracy" not in found and found["validation_accuracy"] is None
    assert set(found["metrics"]) == set(task.metric_modes)
    with pytest.raises(InputError, match=r"the outputs air, fire, the data air, fire, water"):
        judge(ScoredModel(NAMES[:2], {split: each[:, :2] for split, each in logits.items()}), texts, None)


def test_a_models_own_thresholds_are_used_before_others() -> None:
    texts = texts_of(MULTI_LABEL)
    logits = logits_of(texts, 0.7, 0)
    chosen = judge(ScoredModel(NAMES, logits), texts, None)
    never = LabelThresholds.of_cuts([*reversed(NAMES)], np.array([13.0, 13.0, 13.0]), 1.0)
    own = judge(ScoredModel(NAMES, logits, never, 1.0), texts, None)
    half = judge(ScoredModel(NAMES, logits), {**texts, "label_thresholds": None}, None)
    values = [each["metrics"]["macro_f1"]["validation"] for each in (chosen, half, own)]
    assert values[0] > values[1] > values[2] == 0
    assert own["calibration"]["temperature"] == 1 != chosen["calibration"]["temperature"]
    same = {each["metrics"]["map"]["test"] for each in (chosen, half)}
    assert max(same) - min(same) < 2e-3, "no threshold changes an order, but for rounding"


def test_the_calibration_of_sets_is_that_of_all_their_labels() -> None:
    texts = texts_of(MULTI_LABEL)
    found = judge(ScoredModel(NAMES, logits_of(texts, 0.7, 0)), texts, None)
    calibration = found["calibration"]
    assert calibration["in_scope_error_after"] < calibration["in_scope_error_before"]
    assert sum(each["count"] for each in found["curves"]["reliability"]) == 3 * NUM_TEXTS


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (MULTI_LABEL, "macro_f1"),
        (MULTI_LABEL, "subset_accuracy"),
        (REGRESSION, "pearson"),
        (REGRESSION, "rmse"),
    ],
    ids=lambda each: each if isinstance(each, str) else each.name,
)
def test_the_gate_selects_and_the_report_shows_by_the_metric(task: Task, name: str, tmp_path) -> None:
    texts = texts_of(task)
    rows = [
        measured("teacher-pytorch", "pytorch", texts, 0.3, 1),
        measured("student-pytorch", "pytorch", texts, 0.5, 2),
        measured("onnx", "onnx", texts, 0.5, 2),
        measured("onnx-int8", "onnx", texts, 4.0, 3),
    ]
    rows[3] = replace(rows[3], latency_ms={**TIMES, "p50": 0.5})
    metric = task.metric(name, NAMES)
    found = select_variant(rows, ChooseConfig(max_drop_from_teacher=None), metric=metric, task=task)
    assert found.chosen == "onnx"
    by_name = {each.name: each for each in found.measurements}
    assert by_name["onnx-int8"].gate == "failed"
    against = by_name["onnx"].against_student
    assert against is not None and against["difference"] == 0
    assert against["method"] == ("score" if name == "subset_accuracy" else "bootstrap")
    assert by_name["onnx"].predictions_changed == (0 if task is MULTI_LABEL else None)

    slices = {"channel": ["mail", "chat"] * (NUM_TEXTS // 2)}
    options: dict[str, Any] = {"config": ChooseConfig(), "slices": slices, "task": task}
    compared = compare_with_teacher(
        by_name["onnx"], by_name["teacher-pytorch"], texts["test_labels"], NAMES, metric=metric, **options
    )
    assert compared is not None and compared.difference < 0
    assert (compared.changed is None) == (task is REGRESSION)
    broken = break_down(by_name["onnx"], by_name["teacher-pytorch"], texts["test_labels"], NAMES, **options)
    assert broken is not None and broken["confusion"]["counts"] is None
    if task is MULTI_LABEL:
        assert {each["label"] for each in broken["labels"]} == set(NAMES)
        assert all(each["teacher_recall"] >= 0 for each in broken["labels"])
        assert {each["value"] for each in broken["slices"]} == {"mail", "chat"}
        assert any(each.num_right < each.teacher_num_right for each in compared.labels)
    else:
        assert broken["labels"] == broken["slices"] == compared.labels == []

    report = build_report(
        run_id="r", state="finished", rows=found.measurements, chosen="onnx", artifact=None, machine={},
        best={"metric": name, "value": 0.5, "validation_accuracy": None, "trial_id": "a"},
        extra={"metric": name, "against_teacher": compared.to_json(), "breakdown": broken},
    )  # fmt: skip
    paths = write_report(report, tmp_path)
    shown = paths["markdown"].read_text()
    header = next(line for line in shown.splitlines() if line.startswith("| variant"))
    assert metric.title in header
    assert all(absent not in header for absent in ("| accuracy |", "oos recall", "in-scope"))
    assert f"validation\\_{name}" in shown or f"validation_{name}" in shown
    assert ("## Results by label" in shown) == (task is MULTI_LABEL)
    assert paths["picture"].stat().st_size > 1000

    card = model_card(NAMES, {}, by_name["onnx"].to_json(), task.name)
    assert f"On the test split: {metric.title}" in card
    assert ('"labels": [' in card) == (task is MULTI_LABEL)
    assert ("## Numbers" in card) == (task is REGRESSION)
