from typing import Any

import numpy as np
import pytest

from distiltune.export.benchmark.accuracy.predictions import pack_answers
from distiltune.export.benchmark.measure_models import Measurement
from distiltune.export.config import ChooseConfig
from distiltune.export.selection.against_teacher import NUM_LABELS_SHOWN, compare_with_teacher
from distiltune.export.selection.paired_test import compare_paired

NAMES = [f"label {number}" for number in range(8)]
LABELS = np.repeat(np.arange(8), 25)


def row(name: str, predictions: np.ndarray, *, p50: float, size: float, **more: Any) -> Measurement:
    times = {"mean": p50, "std": 0.0, "p50": p50, "p90": p50, "p99": p50}
    packed = {"without_threshold": pack_answers(predictions, predictions == LABELS)}
    return Measurement(
        name=name,
        kind="onnx",
        size_mb=size,
        latency_ms=times,
        sample_latency_ms=times,
        throughput={},
        peak_memory_mb=1.0,
        num_threads=1,
        query="text",
        answers={"test": packed | more.pop("answers", {})},
        **more,
    )


def with_losses(losses: dict[int, int]) -> np.ndarray:
    """Predictions that are wrong on the first ``n`` texts of each label."""
    predictions = LABELS.copy()
    for label, num_lost in losses.items():
        predictions[label * 25 : label * 25 + num_lost] = (label + 1) % 8
    return predictions


def test_it_shows_the_loss_its_interval_and_the_labels_behind_the_average() -> None:
    teacher = row("teacher-pytorch", with_losses({0: 5}), p50=20.0, size=80.0)
    variant = row("onnx", with_losses({1: 3, 2: 9, 3: 1, 4: 2, 5: 4, 6: 6}), p50=1.0, size=8.0)
    found = compare_with_teacher(variant, teacher, LABELS.tolist(), NAMES, ChooseConfig())
    assert found is not None
    assert (found.metric, found.value, found.teacher_value) == ("accuracy", 175 / 200, 195 / 200)
    own, base = variant_right(variant), variant_right(teacher)
    paired = compare_paired(own, base, confidence=0.975)
    assert (found.difference, found.low, found.high) == (paired.difference, paired.low, paired.high)
    assert found.difference == pytest.approx(-0.1)
    assert found.changed == pytest.approx(30 / 200)
    assert (found.faster, found.smaller, found.num_texts) == (20.0, 10.0, 200)
    assert [each.label for each in found.labels] == [f"label {i}" for i in (2, 6, 5, 1, 4)]
    assert len(found.labels) == NUM_LABELS_SHOWN
    worst = found.labels[0]
    assert (worst.num_texts, worst.num_right, worst.teacher_num_right) == (25, 16, 25)


def test_a_ratio_that_was_timed_in_turns_comes_before_that_of_the_separate_timings() -> None:
    teacher = row("teacher-pytorch", LABELS, p50=20.0, size=2.0)
    variant = row("onnx", LABELS, p50=1.0, size=1.0)
    ratio = {"faster": 18.5, "low": 18.1, "high": 18.9, "num_rounds": 24}
    given = (variant, teacher, LABELS.tolist(), NAMES, ChooseConfig())
    found = compare_with_teacher(*given, ratio=ratio)
    assert found is not None
    assert (found.faster, found.faster_low, found.faster_high) == (18.5, 18.1, 18.9)
    bare = compare_with_teacher(*given)
    assert bare is not None
    assert (bare.faster, bare.faster_low, bare.faster_high) == (20.0, None, None)


def variant_right(measurement: Measurement) -> np.ndarray:
    from distiltune.export.benchmark.accuracy.predictions import unpack_answers

    assert measurement.answers is not None
    return unpack_answers(measurement.answers["test"]["without_threshold"]).right


def test_labels_that_lose_nothing_are_not_listed() -> None:
    same = with_losses({0: 5})
    rows = (row("onnx", same, p50=1.0, size=1.0), row("teacher-pytorch", same, p50=1.0, size=1.0))
    found = compare_with_teacher(*rows, LABELS.tolist(), NAMES, ChooseConfig())
    assert found is not None
    assert (found.labels, found.difference, found.changed) == ([], 0.0, 0.0)
    assert found.low < 0 < found.high


def test_both_are_compared_as_the_artifact_predicts() -> None:
    refused = with_losses({0: 10})
    both = {
        "answers": {"with_threshold": pack_answers(refused, refused == LABELS)},
        "with_threshold": {"validation_accuracy": 0.95},
    }
    teacher = row("teacher-pytorch", LABELS, p50=2.0, size=2.0, **both)
    variant = row("onnx", LABELS, p50=1.0, size=1.0, **{**both, "answers": dict(both["answers"])})
    found = compare_with_teacher(variant, teacher, LABELS.tolist(), NAMES, ChooseConfig())
    assert found is not None
    assert (found.accuracy_kind, found.value) == ("with_threshold", 0.95)
    bare = ChooseConfig(accuracy="without_threshold")
    found = compare_with_teacher(variant, teacher, LABELS.tolist(), NAMES, bare)
    assert found is not None
    assert (found.accuracy_kind, found.value) == ("without_threshold", 1.0)


def test_without_predictions_there_is_no_comparison() -> None:
    teacher = row("teacher-pytorch", LABELS, p50=2.0, size=2.0)
    bare = Measurement(**{**row("onnx", LABELS, p50=1.0, size=1.0).to_json(), "answers": None})
    assert compare_with_teacher(bare, teacher, LABELS.tolist(), NAMES, ChooseConfig()) is None
