"""A baseline's row: measured like the others, with threshold and calibration; a failure affects only that row."""

import tempfile

import numpy as np
import pytest

import distiltune.export.benchmark.measure_models as measuring
from distiltune.errors import RunFailedError
from distiltune.export.baselines.fit import TEXTS_FILE, BaselineTexts, train, write_texts
from distiltune.export.benchmark import measurements, processes, worker
from distiltune.export.benchmark.measure_models import (
    BenchmarkTexts,
    MeasurementSpec,
    judge_again,
    measure_models,
)
from distiltune.export.config import BenchmarkConfig
from distiltune.export.out_of_scope.config import OutOfScopeConfig
from distiltune.export.out_of_scope.thresholds import ScopeGoal

LABELS = ["bills", "oos", "rare", "weather"]
BILLS, WEATHER = ("pay the invoice", "an invoice to pay"), ("rain today", "will it rain")
OTHER = ("elephants sing", "purple mountains")
TRAIN = [f"{text} {n}" for n in range(6) for text in (*BILLS, *WEATHER)]
TRAIN_LABELS = [0, 0, 3, 3] * 6
TEST = [*BILLS, *WEATHER, *OTHER, "a label of the test split alone"]
TEST_LABELS = [0, 0, 3, 3, 1, 1, 2]
QUICK = BenchmarkConfig.model_validate(
    {"num_warmups": 0, "num_runs": 2, "num_sample_texts": 2, "batch_sizes": [2]}
)
GOAL = ScopeGoal(OutOfScopeConfig(), "oos")


def texts_of(label: str | None) -> BenchmarkTexts:
    return BenchmarkTexts(TEST, TEST_LABELS, TEST, TEST_LABELS, LABELS, label)


@pytest.fixture
def spec(tmp_path) -> MeasurementSpec:
    folder = tmp_path / "given"
    folder.mkdir()
    write_texts(BaselineTexts(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, LABELS, "oos"), folder / TEXTS_FILE)
    return MeasurementSpec("tfidf-svm", "baseline", str(folder), 16)


@pytest.fixture
def in_this_process(monkeypatch, tmp_path):
    """Run its two processes in this one, with temporary files in a directory of the test."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def run(module, arguments, **_):
        monkeypatch.setattr("sys.argv", [module, *arguments])
        monkeypatch.setattr(worker, "end_with_parent", lambda: None)
        worker.main()

    monkeypatch.setattr(measuring, "run_module", run)
    monkeypatch.setattr(measurements, "_LEAST_SECONDS_OF_THROUGHPUT", 0.01)
    monkeypatch.setattr(worker, "time_undisturbed", lambda _, measure, **__: (measure(), None))
    monkeypatch.setattr(processes, "call_in_process", lambda module, function, given, **_: train(**given))
    return temporary


def test_it_is_measured_like_the_other_rows(spec, in_this_process, tmp_path) -> None:
    reported, kept = [], tmp_path / "logits.npz"
    [row] = measure_models(
        [spec],
        texts_of("oos"),
        QUICK,
        goal=GOAL,
        report=reported.append,
        keep=lambda _, file: kept.write_bytes(file.read_bytes()),
    )
    assert row.training is not None and row.with_threshold is not None and row.calibration is not None
    assert row.size_mb == pytest.approx(row.training["bytes"] / 2**20)
    assert (row.training["num_texts"], row.training["num_classes"]) == (24, 2)
    assert row.accuracy == pytest.approx(4 / 7)  # texts whose labels are missing in train are wrong
    assert row.in_scope_accuracy == pytest.approx(4 / 5)
    assert row.with_threshold["oos_recall"] == 1.0
    assert row.with_threshold["accuracy"] == pytest.approx(6 / 7)
    assert min(row.latency_ms["p50"], row.throughput["2"], row.peak_memory_mb) > 0
    assert (row.session, row.floor_ms, row.gate) == (None, None, None)
    assert [each.message.partition(":")[0] for each in reported] == [
        "training tfidf-svm",
        "1 of 1 models measured; tfidf-svm",
    ]
    assert reported[0].values == {"done": 0, "total": 1}
    assert not list(in_this_process.glob("distiltune*"))
    # The stored file contains only labels and numbers.
    with np.load(kept) as stored:
        assert {name: stored[name].dtype.kind for name in stored} == {
            "labels": "U",
            "validation": "f",
            "test": "f",
        }
        assert stored["labels"].tolist() == ["bills", "weather"]
    again = judge_again(row, kept, None, texts_of("oos"), GOAL)
    assert again == row
    bare = judge_again(row, kept, None, texts_of("oos"), None)
    assert (bare.with_threshold, bare.accuracy) == (None, row.accuracy)


@pytest.mark.usefixtures("in_this_process")
def test_without_an_out_of_scope_label_it_has_no_threshold(spec) -> None:
    [row] = measure_models([spec], texts_of(None), QUICK)
    assert (row.with_threshold, row.oos_recall) == (None, None)
    assert row.accuracy == row.in_scope_accuracy


def test_a_failure_leaves_out_the_baseline_and_no_other_model(spec, monkeypatch, tmp_path) -> None:
    def fail(module, *_, what, **__):
        raise RunFailedError(f"benchmark of {what} failed with status 1: MemoryError")

    monkeypatch.setattr(processes, "call_in_process", fail)
    monkeypatch.setattr(measuring, "run_module", fail)
    without = {}
    assert measure_models([spec], texts_of("oos"), QUICK, leave_out=without.__setitem__) == []
    assert without == {"tfidf-svm": "benchmark of tfidf-svm failed with status 1: MemoryError"}
    with pytest.raises(RunFailedError, match="MemoryError"):
        measure_models([spec], texts_of("oos"), QUICK)
    other = MeasurementSpec("student-pytorch", "pytorch", str(tmp_path), 16)
    with pytest.raises(RunFailedError, match="student-pytorch"):
        measure_models([other], texts_of("oos"), QUICK, leave_out=without.__setitem__)


@pytest.mark.parametrize("kind", ["torch-cuda", "cuda", "tensorrt"])
def test_a_failure_on_a_gpu_leaves_out_its_row_unless_its_target_selects(kind, monkeypatch, tmp_path) -> None:
    def fail(_, *__, what, **___):
        raise RunFailedError(f"benchmark of {what} failed with status 1: no kernel image is available")

    monkeypatch.setattr(measuring, "run_module", fail)
    specs, without = [MeasurementSpec(f"{name}@{kind}", kind, str(tmp_path), 16) for name in "ab"], {}
    others = QUICK.model_copy(update={"targets": ["cpu", kind]})
    assert measure_models(specs, texts_of("oos"), others, leave_out=without.__setitem__) == []
    assert {name: reason.split(": ")[-1] for name, reason in without.items()} == dict.fromkeys(
        [f"a@{kind}", f"b@{kind}"], "no kernel image is available"
    )
    first = QUICK.model_copy(update={"targets": [kind, "cpu"]})
    with pytest.raises(RunFailedError, match=f"a@{kind}"):
        measure_models(specs, texts_of("oos"), first, leave_out=without.__setitem__)
