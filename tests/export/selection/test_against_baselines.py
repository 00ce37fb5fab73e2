"""The comparison with a baseline: the gain in one sentence, and a plain statement where there is none."""

from typing import Any

import numpy as np
import pytest

from distiltune.export.artifact.card import model_card
from distiltune.export.baselines import BASELINES
from distiltune.export.benchmark.accuracy.predictions import pack_answers
from distiltune.export.benchmark.measure_models import Measurement
from distiltune.export.config import ChooseConfig
from distiltune.export.report.report import build_report, markdown_report
from distiltune.export.report.tables import sentence, trained
from distiltune.export.selection.against_baselines import BaselineComparison, compare_with_baselines
from distiltune.export.selection.bootstrap import compare_in_metric
from distiltune.export.selection.gate import apply_gate
from distiltune.export.selection.paired_test import compare_paired
from distiltune.export.selection.select_variant import select_variant
from distiltune.training.tasks import SINGLE_LABEL

LABELS = np.repeat(np.arange(4), 250)


def row(
    name: str, kind: str, num_wrong: int, p50: float, size: float, threshold: int | None = None, **more: Any
) -> Measurement:
    times = {"mean": p50, "std": 0.0, "p50": p50, "p90": p50, "p99": p50}
    packed = {"without_threshold": _packed(num_wrong)}
    if threshold is not None:
        packed["with_threshold"] = _packed(threshold)
        more["with_threshold"] = {
            "accuracy": 1 - threshold / 1000,
            "validation_accuracy": 1 - threshold / 1000,
        }
    given = {"throughput": {"1": 1.0}, "peak_memory_mb": 1.0, "num_threads": 1, "query": "q"}
    common = {"size_mb": size, "latency_ms": times, "sample_latency_ms": times}
    accuracy = 1 - num_wrong / 1000
    return Measurement(
        name=name,
        kind=kind,
        accuracy=accuracy,
        validation_accuracy=accuracy,
        answers={"test": packed, "validation": packed},
        **common,
        **given,
        **more,
    )


def _predictions(num_wrong: int) -> np.ndarray:
    predictions = LABELS.copy()
    predictions[:num_wrong] = 3
    return predictions


def _packed(num_wrong: int) -> dict[str, Any]:
    predictions = _predictions(num_wrong)
    return pack_answers(predictions, predictions == LABELS, LABELS)


VARIANT = row("onnx-int8", "onnx", 50, 0.5, 10.0)


def compared(*rows: Measurement, variant: Measurement = VARIANT, **more: Any) -> list[BaselineComparison]:
    return compare_with_baselines(variant, [variant, *rows], ChooseConfig(), **more)


def test_the_gain_is_one_sentence_with_its_interval() -> None:
    [found] = compared(
        row("tfidf-svm", "baseline", 79, 112.0, 46.0), row("teacher-pytorch", "pytorch", 9, 9, 9)
    )
    paired = compare_paired(_predictions(50) == LABELS, _predictions(79) == LABELS, confidence=0.975)
    assert (found.difference, found.low, found.high) == (paired.difference, paired.low, paired.high)
    assert found.difference == pytest.approx(0.029)
    limits = f"{100 * paired.low:+.1f} to {100 * paired.high:+.1f}"
    assert (
        found.text == f"against tfidf-svm: +2.9 points accuracy (95 %: {limits}), 224x faster, 4.6x smaller"
    )
    assert found.low > 0 and found.verdict is None
    assert (found.value, found.baseline_value, found.num_texts) == (0.95, pytest.approx(0.921), 1000)


@pytest.mark.parametrize(
    ("num_wrong", "word"), [(50, "as good"), (52, "as good"), (47, "as good"), (20, "better")]
)
def test_a_baseline_that_is_as_good_is_said_plainly(num_wrong, word) -> None:
    [found] = compared(row("tfidf-svm", "baseline", num_wrong, 0.25, 5.0))
    assert (found.low <= 0 <= found.high) == (word == "as good")
    assert found.verdict is not None
    assert found.verdict.startswith(f"{BASELINES['tfidf-svm'].title} is {word} on these texts")
    assert found.verdict.endswith("a model without attention may be enough")
    assert found.text.endswith("2.0x slower, 2.0x larger")
    [bare] = compared(row("tfidf-svm", "baseline", num_wrong, 0.25, 5.0), has_attention=False)
    assert bare.verdict == found.verdict.replace("a model without attention may", "it may")


def test_few_texts_are_not_called_a_draw() -> None:
    """Of 1,000 texts, five more or five fewer right, where sixty answers differ, leave a point on either side open."""
    own, base = LABELS.copy(), LABELS.copy()
    own[:28], base[100:133] = 3, 3
    variant, other = (
        row(name, kind, 0, 1.0, 1.0) for name, kind in (("onnx", "onnx"), ("tfidf-svm", "baseline"))
    )
    for each, predictions in ((variant, own), (other, base)):
        each.answers["test"] = {"without_threshold": pack_answers(predictions, predictions == LABELS, LABELS)}
    [found] = compared(other, variant=variant)
    assert found.low < 0 and found.high > 0.01
    assert found.verdict == (
        f"1,000 test texts do not show that it is better than {BASELINES['tfidf-svm'].title}: more would tell"
    )


def test_sizes_are_those_of_all_files_that_the_runtime_reads() -> None:
    variant = row("onnx-int8", "onnx", 50, 0.5, 10.0, files_mb=4 * 2**20 * 10 / 1e6)
    [found] = compared(row("tfidf-svm", "baseline", 79, 1.0, 20.0), variant=variant)
    assert found.smaller == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("milliseconds", "words"), [(0.51, "as fast"), (0.49, "as fast"), (0.6, "1.2x faster")]
)
def test_a_ratio_that_rounds_to_one_is_called_equal(milliseconds, words) -> None:
    [found] = compared(row("tfidf-svm", "baseline", 50, milliseconds, 10.1))
    assert found.text.endswith(f", {words}, of the same size")


def test_the_worst_limit_counts_not_the_measured_difference() -> None:
    """Of 1,000 texts, a gain of two is not above chance; a gain of thirty is."""
    [two] = compared(row("tfidf-svm", "baseline", 52, 1.0, 1.0))
    [thirty] = compared(row("tfidf-svm", "baseline", 80, 1.0, 1.0))
    assert two.difference > 0 and two.verdict is not None
    assert thirty.verdict is None


def test_both_are_compared_with_their_thresholds_where_the_artifact_has_one() -> None:
    variant = row("onnx", "onnx", 300, 1.0, 1.0, threshold=10)
    [found] = compared(row("tfidf-svm", "baseline", 20, 1.0, 1.0, threshold=60), variant=variant)
    assert (found.accuracy_kind, found.difference) == ("with_threshold", pytest.approx(0.05))
    [bare] = compare_with_baselines(
        variant,
        [row("tfidf-svm", "baseline", 20, 1.0, 1.0, threshold=60)],
        ChooseConfig(accuracy="without_threshold"),
    )
    assert bare.difference == pytest.approx(-0.28)


def test_another_metric_is_compared_by_the_bootstrap() -> None:
    metric = SINGLE_LABEL.metric("macro_f1", ["a", "b", "c", "d"])
    [found] = compared(row("tfidf-svm", "baseline", 120, 1.0, 1.0), metric=metric)
    paired = compare_in_metric(_predictions(50), _predictions(120), LABELS, metric, confidence=0.975)
    assert (found.metric, found.difference, found.low) == ("macro_f1", paired.difference, paired.low)
    assert f" points {metric.title} (95 %: " in found.text


def test_a_baseline_without_predictions_is_not_compared() -> None:
    bare = row("tfidf-svm", "baseline", 1, 1.0, 1.0)
    assert compared(Measurement.from_json({**bare.to_json(), "answers": None})) == []
    assert compared() == []


def test_it_is_neither_gated_nor_chosen() -> None:
    """The choice is the same with and without a baseline, however good it is."""
    student, best = (
        row("student-pytorch", "pytorch", 50, 9.0, 9.0),
        row("tfidf-svm", "baseline", 0, 0.01, 0.1),
    )
    choice = select_variant([student, VARIANT, best], ChooseConfig())
    assert choice.chosen == select_variant([student, VARIANT], ChooseConfig()).chosen == "onnx-int8"
    last = choice.measurements[-1]
    assert (last.gate, last.teacher_gate, last.verdict, last.against_student) == (None, None, None, None)
    metric = SINGLE_LABEL.metric("macro_f1", ["a", "b", "c", "d"])
    judged = apply_gate([student, VARIANT, best], ChooseConfig(), metric=metric)[-1]
    assert judged.metric is not None and judged.metric["test"] == pytest.approx(1.0)


TRAINING = {
    "seconds": 12.34,
    "num_texts": 15250,
    "num_classes": 4,
    "features": "99,000 words",
    "bytes": 78_100_000,
}


def report(*found: BaselineComparison, **more: Any) -> dict[str, Any]:
    rows = [VARIANT, row("tfidf-svm", "baseline", 79, 112.0, 46.0, training=TRAINING)]
    extra = {"against_baselines": [each.to_json() for each in found], **more}
    return build_report(
        run_id="r",
        state="finished",
        best=None,
        rows=rows,
        chosen="onnx-int8",
        artifact=None,
        machine={},
        extra=extra,
    )


def test_the_report_says_it_in_text_and_json() -> None:
    [good] = compared(row("tfidf-svm", "baseline", 79, 112.0, 46.0))
    [equal] = compared(row("fasttext", "baseline", 50, 1.0, 1.0))
    found = report(good, equal, left_out={"model2vec": "model2vec is not installed; pip install x"})
    assert [each["text"] for each in found["against_baselines"]] == [good.text, equal.text]
    text = markdown_report(found)
    assert f"- A{good.text[1:]} (test split; p50 of one text)." in text
    assert f"{equal.text[1:]}; {equal.verdict} (test split" in text
    assert "| tfidf-svm | 0.9210 |" in text
    assert "- tfidf-svm: trained on the 15,250 labelled training texts in 12.3 s, by 99,000 words; " in text
    assert "78.1 million bytes" in text
    assert "- model2vec was not measured: model2vec is not installed; pip install x." in text
    assert "was not measured" not in markdown_report(report(good))


def test_only_baselines_say_how_they_were_trained() -> None:
    assert trained([VARIANT.to_json()]) == []
    assert sentence({"text": "a", "verdict": None}) == "a"
    assert sentence({"text": "a", "verdict": "b"}) == "a; b"


def test_the_model_card_says_it() -> None:
    [found] = compared(row("tfidf-svm", "baseline", 50, 112.0, 46.0))
    card = model_card(["a", "b"], {}, {"accuracy": 0.9, "against_baselines": [found.to_json()]})
    assert f"| gain | {sentence(found.to_json())} |" in card
    assert "against_baselines" not in card
    for damaged in ("word", [7], [{"text": 7}], {"text": "x"}):
        assert model_card(["a", "b"], {}, {"accuracy": 0.9, "against_baselines": damaged})
