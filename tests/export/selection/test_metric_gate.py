"""The gate, the selection and the report in a metric other than accuracy, on skewed data."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import f1_score, recall_score

from distiltune.errors import RunFailedError
from distiltune.export.artifact.card import model_card
from distiltune.export.benchmark.accuracy.predictions import pack_answers, unpack_answers
from distiltune.export.benchmark.measure_models import Measurement
from distiltune.export.config import ChooseConfig
from distiltune.export.report.report import build_report, markdown_report
from distiltune.export.report.tables import markdown_table, terminal_table
from distiltune.export.selection.against_teacher import compare_with_teacher
from distiltune.export.selection.gate import apply_gate
from distiltune.export.selection.select_variant import VariantSelection, select_variant
from distiltune.training.tasks import SINGLE_LABEL, Metric

NAMES = ["usual", "other", "rare"]
LABELS = np.repeat([0, 1, 2], [1400, 400, 200])
STUDENT, TEACHER = "student-pytorch", "teacher-pytorch"


def metric(name: str) -> Metric:
    return SINGLE_LABEL.metric(name, NAMES)


def wrong(**counts: int) -> np.ndarray:
    """Return predictions with ``counts`` errors among the texts of each label; "usual" becomes "other"."""
    predictions = LABELS.copy()
    for name, count in counts.items():
        label = NAMES.index(name)
        predictions[np.flatnonzero(label == LABELS)[:count]] = 0 if label else 1
    return predictions


def row(name: str, predictions: np.ndarray, *, p50: float = 1.0, kind: str = "onnx") -> Measurement:
    times = {"mean": p50, "std": 0.0, "p50": p50, "p90": p50, "p99": p50}
    packed = {"without_threshold": pack_answers(predictions, predictions == LABELS, LABELS)}
    accuracy = float((predictions == LABELS).mean())
    return Measurement(
        name=name, kind=kind, size_mb=10.0, latency_ms=times, sample_latency_ms=times, throughput={},
        peak_memory_mb=1.0, num_threads=1, query="text", accuracy=accuracy, validation_accuracy=accuracy,
        answers={"validation": packed, "test": packed},
    )  # fmt: skip


BASE = row(STUDENT, wrong(usual=40, rare=10), kind="pytorch", p50=5.0)
OF_TEACHER = row(TEACHER, wrong(usual=30, rare=10), kind="pytorch", p50=50.0)


def chosen(name: str, *variants: Measurement, **options: Any) -> VariantSelection:
    config = ChooseConfig(**{"max_drop_from_teacher": None, **options})
    return select_variant([BASE, OF_TEACHER, *variants], config, metric=metric(name))


def test_a_loss_of_macro_f1_has_all_three_outcomes():
    """One text of a frequent label is lost; or rare texts are both lost and gained; or 30 rare texts are lost."""
    shifted = wrong(usual=40, rare=10)
    rare = np.flatnonzero(LABELS == 2)
    shifted[rare[:10]], shifted[rare[50:62]] = 2, 0
    rows = [
        row("small", wrong(usual=41, rare=10)),
        row("unsure", shifted),
        row("large", wrong(usual=40, rare=40)),
    ]
    found = apply_gate([BASE, *rows], ChooseConfig(), metric=metric("macro_f1"))
    small, unsure, large = found[1:]
    assert [each.gate for each in found] == ["passed", "passed", "inconclusive", "failed"]
    base = f1_score(
        LABELS, unpack_answers((BASE.answers or {})["test"]["without_threshold"]).predictions, average="macro"
    )
    lost = f1_score(LABELS, wrong(usual=40, rare=40), average="macro") - base
    paired = large.against_student or {}
    assert (paired["difference"], paired["method"], paired["metric"]) == (
        pytest.approx(lost),
        "bootstrap",
        "macro_f1",
    )
    assert re.search(
        rf"validation macro F1 {lost:+.4f} against {STUDENT} .* below -0.01 \(max_drop_from_student\)",
        large.verdict or "",
    )
    assert re.search(r"validation macro F1 .*about [\d,]+ more validation texts would", unsure.verdict or "")
    assert small.verdict is None
    strict = apply_gate([BASE, *rows], ChooseConfig(strict=True), metric=metric("macro_f1"))
    assert [each.gate for each in strict] == ["passed", "passed", "failed", "failed"]
    assert [
        each.gate
        for each in apply_gate(
            [BASE, large], ChooseConfig(max_drop_from_student=0.2), metric=metric("macro_f1")
        )
    ] == ["passed", "passed"]


def test_accuracy_and_macro_f1_select_different_variants_of_skewed_data():
    """The faster variant loses 18 rare texts of 2,000: 0.009 of accuracy, and more than 0.01 of macro F1."""
    variants = [row("fair", wrong(usual=50, rare=10), p50=2.0), row("unfair", wrong(usual=40, rare=28))]
    assert chosen("accuracy", *variants).chosen == "unfair"
    for name in ("macro_f1", "recall.rare"):
        found = chosen(name, *variants)
        assert found.chosen == "fair"
        why = {each.name: each.verdict or "" for each in found.measurements}["unfair"]
        assert f"validation {metric(name).title} -0." in why


def test_a_minimum_and_a_missing_value_are_named_by_the_metric():
    found = chosen("recall.rare", row("onnx", wrong(rare=12)), min_validation_metric=0.99)
    assert found.chosen is None
    assert "validation recall of rare 0.9400 below min_validation_metric 0.99" in found.reason
    bare = replace(row("onnx", wrong()), answers=None)
    assert "onnx: it has no validation recall of rare" in chosen("recall.rare", bare).reason
    with pytest.raises(RunFailedError, match=rf"validation macro F1 of '{STUDENT}' is missing"):
        apply_gate([row("onnx", wrong())], ChooseConfig(), metric=metric("macro_f1"))


def test_every_variant_that_loses_too_much_against_the_teacher_warns_in_the_metric():
    found = chosen(
        "macro_f1",
        row("onnx", wrong(usual=40, rare=20)),
        max_drop_from_student=None,
        max_drop_from_teacher=0.01,
    )
    assert found.chosen == "onnx"
    assert (
        "loses more validation macro F1 against the teacher than max_drop_from_teacher 0.01" in found.warning
    )


def test_metrics_are_of_the_predictions_that_the_limits_apply_to():
    """With a threshold, the artifact's predictions differ, and so does the metric."""
    bare, refused = row("onnx", wrong()), wrong(rare=100)
    packed = {"with_threshold": pack_answers(refused, refused == LABELS, LABELS)}
    answers = {split: {**each, **packed} for split, each in (bare.answers or {}).items()}
    both = replace(bare, answers=answers, with_threshold={"validation_accuracy": 0.95})
    for config, expected in ((ChooseConfig(), 0.5), (ChooseConfig(accuracy="without_threshold"), 1.0)):
        [_, found] = apply_gate([BASE, both], config, metric=metric("recall.rare"))
        kind = "with_threshold" if expected == 0.5 else "without_threshold"
        values = {"name": "recall.rare", "kind": kind, "validation": expected, "test": expected}
        assert found.metric == values


def test_the_report_the_card_and_the_terminal_name_the_metric_first():
    variant = row("onnx", wrong(usual=45, rare=14))
    found = chosen("macro_f1", variant, max_drop_from_student=None)
    compared = compare_with_teacher(
        variant, OF_TEACHER, LABELS.tolist(), NAMES, ChooseConfig(), metric=metric("macro_f1")
    )
    assert compared is not None
    value = f1_score(LABELS, wrong(usual=45, rare=14), average="macro")
    of_teacher = f1_score(LABELS, wrong(usual=30, rare=10), average="macro")
    assert (compared.value, compared.teacher_value) == (pytest.approx(value), pytest.approx(of_teacher))
    assert compared.difference == pytest.approx(value - of_teacher)
    assert compared.low < compared.difference < compared.high < 0
    rows = [replace(each, answers=None) for each in found.measurements]
    extra = {"against_teacher": compared.to_json(), "metric": "macro_f1"}
    extra["trials"] = [
        {"trial_id": "t", "parameters": {}, "metrics": {"validation_macro_f1": 0.8765}, "best_epoch": 1,
         "seconds": 1.0, "state": "finished", "reason": None},
    ]  # fmt: skip
    best = {"alpha": 0.5, "metric": "macro_f1", "value": 0.8765, "validation_accuracy": 0.9, "trial_id": "t"}
    report = build_report(
        run_id="r", state="finished", best=best, rows=rows, chosen="onnx", artifact=None,
        machine={"cpu": "C", "num_usable_cores": 1, "instruction_sets": [], "os": "L", "python": "3", "versions": {},
                 "gpus": []},
        extra=extra,
    )  # fmt: skip
    text = markdown_report(report)
    first = next(line for line in text.splitlines() if "against its teacher" in line)
    assert f"macro F1 {value:.4f} instead of {of_teacher:.4f}" in first
    assert "paired bootstrap" in text
    assert re.search(r"\| trial \| validation macro F1 \|", text)
    assert "validation_macro_f1 0.8765, validation_accuracy 0.9" in text
    assert re.search(r"\| variant +\| macro F1 +\| accuracy", str(markdown_table(report["variants"], "onnx")))
    terminal = Console(file=io.StringIO(), width=120)
    terminal.print(terminal_table(report["variants"], "onnx"))
    assert isinstance(terminal.file, io.StringIO)
    assert re.search(r"variant +macro F1 +accuracy", terminal.file.getvalue())
    card = model_card(NAMES, {"run_id": "r"}, rows[-1].to_json())
    assert f"On the test split: macro F1 {value:.4f}." in card
    assert re.search(r"name: macro F1\n +type: f1|type: f1\n +value: [\d.]+\n +name: macro F1", card)


def test_labels_of_answers_come_back():
    packed = pack_answers(wrong(rare=3), wrong(rare=3) == LABELS, LABELS + 300)
    found = unpack_answers(packed)
    assert found.labels is not None
    assert (found.labels == LABELS + 300).all()
    assert (found.predictions == wrong(rare=3)).all()
    assert recall_score(LABELS, found.predictions, average=None)[2] == pytest.approx(0.985)
