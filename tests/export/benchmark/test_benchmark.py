import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from models import tiny_classifier, tiny_data
from onnx import helper

from distiltune.errors import InputError, RunFailedError
from distiltune.export.benchmark import measure_models as measuring
from distiltune.export.benchmark import measurements, worker
from distiltune.export.benchmark.accuracy.predictions import unpack_answers
from distiltune.export.benchmark.measure_models import (
    BenchmarkTexts,
    Measurement,
    MeasurementSpec,
    measure_models,
)
from distiltune.export.benchmark.measurements import (
    PerformanceBenchmark,
    median_text,
    model_bytes,
    peak_memory_mb,
    runtime_bytes,
)
from distiltune.export.benchmark.targets import pytorch, pytorch_int8
from distiltune.export.benchmark.targets.reference_model import write_reference
from distiltune.export.config import BenchmarkConfig, ExportConfig, OutOfScopeConfig
from distiltune.export.machine import describe_machine
from distiltune.export.out_of_scope.fit_scores import ValidationTexts, fit_scores
from distiltune.export.out_of_scope.thresholds import ScopeGoal, choose_threshold, reliability
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.runtime.scores import SCORES
from distiltune.export.variants.build import build_variant
from distiltune.export.variants.torch_int8 import load_pytorch_int8
from distiltune.training.checkpoints.load import load_tokenizer
from distiltune.training.tasks import SINGLE_LABEL

LABELS = ["label_0", "label_1", "label_2", "label_3"]
QUICK = BenchmarkConfig(
    num_warmups=1, num_runs=5, num_sample_texts=4, batch_sizes=[1, 8], tune_session=False, floors=False
)
PERCENTILES = {"mean", "std", "p50", "p90", "p99"}


class Slow:
    """A pipeline that answers with the first word, after a known time."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: str | list[str], batch_size: int = 1):
        if isinstance(texts, str):
            self.texts.append(texts)
            time.sleep(0.01)
            return [{"label": texts.split()[0], "score": 1.0}]
        return [{"label": text.split()[0], "score": 1.0} for text in texts]


def bench(**options) -> PerformanceBenchmark:
    texts = ["no", "yes or no", "yes please do that", "maybe one day or so", "oos x"]
    labels = ["no", "no", "yes", "maybe", "oos"]
    options = {"num_warmups": 2, "num_runs": 5, "out_of_scope_label": "oos", **options}
    return PerformanceBenchmark(Slow(), texts, labels, **options)


def test_accuracies_are_counted_by_label_and_scope() -> None:
    assert bench().compute_accuracy() == {"accuracy": 0.8, "in_scope_accuracy": 0.75, "oos_recall": 1.0}
    assert bench().compute_accuracy(["yes", "no"], ["yes", "yes"])["accuracy"] == 0.5
    without = bench(out_of_scope_label=None).compute_accuracy()
    assert without == {"accuracy": 0.8, "in_scope_accuracy": 0.8, "oos_recall": None}


def test_times_the_query_after_the_warm_ups() -> None:
    benchmark = bench(query="yes")
    times = benchmark.time_pipeline()
    assert set(times) == PERCENTILES
    assert benchmark.pipeline.texts == ["yes"] * 7
    assert 10 <= times["p50"] <= times["p90"] <= times["p99"]
    assert times["mean"] >= 10


def test_times_real_texts_and_the_same_ones_every_time() -> None:
    benchmark = bench(num_sample_texts=3)
    assert benchmark.sample == bench(num_sample_texts=3).sample
    benchmark.time_sample()
    assert benchmark.pipeline.texts[2:] == benchmark.sample
    assert sorted(bench().sample) == sorted(benchmark.texts)


def test_measures_everything_at_once(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x" * 2**19)
    (tmp_path / "tokenizer.json").write_bytes(b"x" * 2**19)
    row = bench(name="slow", model_path=tmp_path, batch_sizes=[2]).run_benchmark()["slow"]
    assert row["size_mb"] == 0.5
    assert set(row["throughput"]) == {"2"}
    assert row["throughput"]["2"] > 0
    assert row["peak_memory_mb"] > 10
    assert row["accuracy"] == 0.8
    assert set(row["latency_ms"]) == set(row["sample_latency_ms"]) == PERCENTILES


def test_throughput_is_that_of_full_batches(monkeypatch) -> None:
    """Of 5 texts, a batch size of 2 leaves one over, and one of 12 needs more texts than there are."""
    monkeypatch.setattr(measurements, "_LEAST_SECONDS_OF_THROUGHPUT", 0.001)
    sizes: dict[int, set[int]] = {}

    def classify(texts, batch_size):
        time.sleep(0.001)
        sizes.setdefault(batch_size, set()).add(len(texts))
        return [{"label": "no", "score": 1.0} for _ in texts]

    benchmark = bench(batch_sizes=[1, 2, 12])
    benchmark.pipeline = classify
    found = benchmark.compute_throughput()
    assert sizes == {1: {1}, 2: {2}, 12: {12}}
    assert all(0 < rate < 1000 * int(size) for size, rate in found.items())


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="texts is empty"):
        PerformanceBenchmark(Slow(), [], [])
    with pytest.raises(InputError, match="1 texts but 2 labels"):
        PerformanceBenchmark(Slow(), ["a"], ["a", "b"])
    with pytest.raises(InputError, match="label 'b' is not one of the 1 labels"):
        PerformanceBenchmark(Slow(), ["a"], ["b"], label_names=["a"])
    with pytest.raises(InputError, match="num_runs 0"):
        bench(num_runs=0)
    with pytest.raises(InputError, match="out_of_scope_label 'none such'"):
        bench(out_of_scope_label="none such")
    with pytest.raises(InputError, match="no weights"):
        model_bytes(tmp_path)


def test_the_files_of_the_runtime_are_counted_and_no_others(tmp_path: Path) -> None:
    for number, name in enumerate(("model.onnx", "tokenizer.json", "distiltune.json")):
        with pytest.raises(InputError, match=f"{name} is missing"):
            runtime_bytes(tmp_path)
        (tmp_path / name).write_bytes(b"x" * 10**number)
    for name in ("README.md", "manifest.json", "probes.json", "config.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes(b"x" * 5000)
    assert runtime_bytes(tmp_path) == 111
    (tmp_path / "model.onnx.data").write_bytes(b"x" * 1000)
    assert runtime_bytes(tmp_path) == 1111
    assert model_bytes(tmp_path) == 1001


def test_the_first_call_is_timed_without_warm_up() -> None:
    benchmark = bench(query="yes")
    assert benchmark.time_first_call() >= 10
    assert benchmark.pipeline.texts == ["yes"]


def test_median_text_is_by_length() -> None:
    assert median_text(["ccc", "a", "bb"]) == "bb"


def test_peak_memory_is_this_process_own() -> None:
    before = peak_memory_mb()
    block = bytearray(64 * 2**20)
    assert peak_memory_mb() >= before
    assert peak_memory_mb() > 64
    del block


def test_machine_names_processor_and_versions() -> None:
    machine = describe_machine()
    assert machine["cpu"]
    assert 1 <= machine["num_usable_cores"] <= machine["num_cores"]
    assert machine["versions"]["onnxruntime"]
    assert isinstance(machine["instruction_sets"], list)
    json.dumps(machine, allow_nan=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, plain_graph) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("rows")
    student = tiny_classifier(root / "student", label_names=LABELS)
    options = {"config": ExportConfig(), "max_length": 16, "base_onnx": plain_graph(student, 16)}
    build_variant("onnx", student, root / "onnx", **options)
    return {"student": student, "onnx": root / "onnx"}


@pytest.fixture(scope="module")
def texts() -> BenchmarkTexts:
    pairs = tiny_data()
    words, labels = [text for text, _ in pairs], [LABELS.index(label) for _, label in pairs]
    return BenchmarkTexts(words[::2], labels[::2], words[1::2], labels[1::2], LABELS, "label_3")


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure rows in this process, which has already loaded the libraries."""

    def run_here(module: str, arguments: list[str], **_: object) -> None:
        assert module == "benchmark.worker"
        spec, out = map(Path, arguments)
        out.write_text(json.dumps(worker.measure(json.loads(spec.read_text())), allow_nan=False))

    monkeypatch.setattr(measuring, "run_module", run_here)
    for target in (pytorch, pytorch_int8):  # PyTorch accepts the number only once in a process
        monkeypatch.setattr(target, "set_threads", lambda _: None)


def test_rows_are_measured_in_processes_of_their_own(folders: dict[str, Path], texts: BenchmarkTexts) -> None:
    specs = [
        MeasurementSpec("student-pytorch", "pytorch", str(folders["student"]), 16),
        MeasurementSpec("onnx", "onnx", str(folders["onnx"]), 16, max_abs_diff=1e-7, fused={"Attention": 2}),
    ]
    seen: list[str] = []
    rows = measure_models(specs, texts, QUICK, report=lambda progress: seen.append(progress.values["name"]))
    assert seen == [row.name for row in rows] == [spec.name for spec in specs]
    student, onnx = rows
    for row in rows:
        assert row.num_threads == 1
        assert row.query == median_text(texts.validation_texts)
        assert set(row.throughput) == {"1", "8"}
        assert set(row.latency_ms) == set(row.sample_latency_ms) == PERCENTILES
        assert row.latency_ms["p50"] > 0
        assert row.oos_recall is not None
        assert Measurement.from_json(json.loads(json.dumps(row.to_json()))) == row
    assert (onnx.accuracy, onnx.validation_accuracy) == (student.accuracy, student.validation_accuracy)
    assert student.size_mb == (folders["student"] / "model.safetensors").stat().st_size / 2**20
    assert onnx.size_mb == (folders["onnx"] / "model.onnx").stat().st_size / 2**20
    assert onnx.fused == {"Attention": 2}
    # The process of the ONNX row does not load torch.
    assert onnx.peak_memory_mb < student.peak_memory_mb / 2


@pytest.mark.usefixtures("in_this_process")
def test_an_onnx_row_on_one_thread_has_its_floor(
    folders: dict[str, Path], texts: BenchmarkTexts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    specs = [
        MeasurementSpec("onnx", "onnx", str(folders["onnx"]), 16),
        MeasurementSpec("uncounted", "onnx", str(uncounted(folders["onnx"], tmp_path / "uncounted")), 16),
    ]
    plain, other = measure_models(specs, texts, QUICK.model_copy(update={"floors": True}))
    assert plain.floor_ms is not None
    assert 0 < plain.floor_ms["floor"] < plain.latency_ms["p50"]
    assert plain.floor_ms["floor"] == max(plain.floor_ms["bytes"], plain.floor_ms["operations"])
    assert other.floor_ms is None
    assert other.latency_ms["p50"] > 0
    [warning] = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert warning.startswith("uncounted: ") and "operations of Einsum cannot be counted" in warning
    for changed in ({"floors": False}, {"floors": True, "num_threads": 2}):
        (row,) = measure_models(specs[:1], texts, QUICK.model_copy(update=changed))
        assert row.floor_ms is None
    pytorch_row = MeasurementSpec("student-pytorch", "pytorch", str(folders["student"]), 16)
    (row,) = measure_models([pytorch_row], texts, QUICK.model_copy(update={"floors": True}))
    assert row.floor_ms is None


def uncounted(variant: Path, target: Path) -> Path:
    """Copy a variant, and pass its logits through an Einsum, whose operations cannot be counted."""
    shutil.copytree(variant, target)
    graph = onnx.load(str(target / "model.onnx"))
    last = graph.graph.output[0].name
    for node in graph.graph.node:
        node.output[:] = ["handed_on" if name == last else name for name in node.output]
    graph.graph.node.append(helper.make_node("Einsum", ["handed_on"], [last], equation="bc->bc"))
    onnx.save_model(graph, str(target / "model.onnx"))
    return target


@pytest.mark.usefixtures("in_this_process")
def test_rows_are_measured_with_their_own_threshold_too(
    folders: dict[str, Path], texts: BenchmarkTexts, tmp_path: Path
) -> None:
    goal = ScopeGoal(OutOfScopeConfig(in_scope_weight=0.5), "label_3")
    shutil.copytree(folders["onnx"], tmp_path / "onnx")
    labels = [LABELS[label] for label in texts.validation_labels]
    fitted = fit_scores(tmp_path / "onnx", ValidationTexts(texts.validation_texts, labels, goal))
    classifier = TextClassifier.load(tmp_path / "onnx")
    chosen = classifier.threshold
    assert chosen is not None
    assert (fitted["threshold"], classifier.out_of_scope_label) == (chosen.to_json(), "label_3")
    assert classifier.temperature == fitted["temperature"] != 1
    specs = [
        MeasurementSpec("student-pytorch", "pytorch", str(folders["student"]), 16),
        MeasurementSpec("onnx", "onnx", str(tmp_path / "onnx"), 16),
    ]
    student, onnx = (row.with_threshold or {} for row in measure_models(specs, texts, QUICK, goal=goal))
    assert onnx["value"] == chosen.value
    # A model without a threshold of its own gets one in the same way.
    assert student["value"] == pytest.approx(chosen.value, abs=1e-4)
    answers = [answer["label"] for answer in classifier(texts.test_texts)]
    right = np.array(answers) == np.array([LABELS[label] for label in texts.test_labels])
    assert onnx["accuracy"] == right.mean()
    validation = [answer["label"] for answer in classifier(texts.validation_texts)]
    assert onnx["validation_accuracy"] == (np.array(validation) == np.array(labels)).mean()
    predictions = SINGLE_LABEL.predictions(classifier.logits(texts.test_texts))
    without = SINGLE_LABEL.metrics(predictions, np.asarray(texts.test_labels), LABELS.index("label_3"))
    (again,) = measure_models(specs[1:], texts, QUICK)
    assert (again.accuracy, again.oos_recall) == (without["accuracy"], without["oos_recall"])
    assert again.with_threshold is None


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("name", ["onnx-int8", "student-pytorch-int8"])
def test_quantized_rows_are_judged_by_each_text_alone(
    folders: dict[str, Path], texts: BenchmarkTexts, tmp_path: Path, name: str, plain_graph
) -> None:
    """Threshold and calibration error depend on the logits, and so show which ones were used."""
    goal = ScopeGoal(OutOfScopeConfig(max_in_scope_refused=0.3), "label_3")
    labels = [LABELS[label] for label in texts.validation_labels]
    build_variant(
        name,
        folders["student"],
        tmp_path / name,
        config=ExportConfig(),
        max_length=16,
        base_onnx=plain_graph(folders["student"], 16),
        validation=ValidationTexts(texts.validation_texts, labels, goal),
    )
    is_onnx = name == "onnx-int8"
    spec = MeasurementSpec(
        name,
        "onnx" if is_onnx else "pytorch-int8",
        str(tmp_path / name),
        16,
        tokenizer_dir=str(folders["student"]),
    )
    (row,) = measure_models([spec], texts, QUICK, goal=goal)
    ask = onnx_asker(tmp_path / name) if is_onnx else pytorch_int8_asker(tmp_path / name, folders["student"])

    def threshold(size: int) -> float:
        given = logits_in_batches(ask, texts.validation_texts, size)
        return choose_threshold(
            SINGLE_LABEL.out_of_scope, given, np.asarray(texts.validation_labels), 3, goal
        ).value

    def calibration_error(size: int) -> float:
        given = logits_in_batches(ask, texts.test_texts, size)
        right = given.argmax(axis=1) == np.asarray(texts.test_labels)
        inside = np.asarray(texts.test_labels) != 3
        return reliability(SCORES["max_softmax"](given)[inside], right[inside])["ece"]

    assert row.size_mb < model_bytes(folders["student"]) / 2**20
    assert row.with_threshold is not None
    assert row.with_threshold["value"] == pytest.approx(threshold(1), abs=1e-6)
    assert row.calibration is not None
    assert row.calibration["in_scope_error_before"] == pytest.approx(calibration_error(1), abs=1e-6)
    # Batches give other values, so the checks above are not vacuous.
    assert abs(threshold(32) - threshold(1)) > 1e-5
    assert abs(calibration_error(32) - calibration_error(1)) > 1e-5


def onnx_asker(directory: Path) -> Callable[[Sequence[str]], np.ndarray]:
    return TextClassifier.load(directory).logits


def pytorch_int8_asker(directory: Path, student: Path) -> Callable[[Sequence[str]], np.ndarray]:
    model, tokenizer = load_pytorch_int8(directory), load_tokenizer(student)

    def ask(texts: Sequence[str]) -> np.ndarray:
        inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=16, return_tensors="pt")
        with torch.inference_mode():
            return model(**inputs).logits.numpy()

    return ask


def logits_in_batches(
    ask: Callable[[Sequence[str]], np.ndarray], texts: Sequence[str], size: int
) -> np.ndarray:
    return np.concatenate([ask(texts[i : i + size]) for i in range(0, len(texts), size)])


@pytest.mark.usefixtures("in_this_process")
def test_answers_are_kept_so_that_rows_can_be_compared(
    folders: dict[str, Path], texts: BenchmarkTexts
) -> None:
    """Labels are in the data's order, whatever the model's, with the threshold's label at the end."""
    other = [*reversed(LABELS), "never"]
    labels = [other.index(LABELS[label]) for label in texts.validation_labels]
    turned = replace(
        texts,
        validation_labels=labels,
        test_labels=labels,
        test_texts=texts.validation_texts,
        label_names=other,
    )
    goal = ScopeGoal(OutOfScopeConfig(max_in_scope_refused=0.3), "none_of_these")
    turned = replace(turned, out_of_scope_label=None)
    (row,) = measure_models(
        [MeasurementSpec("onnx", "onnx", str(folders["onnx"]), 16)], turned, QUICK, goal=goal
    )
    assert row.answers is not None
    names = np.array([*other, "none_of_these"])
    answers = row.answers["validation"]
    assert answers == row.answers["test"]  # both splits have the same texts
    without = unpack_answers(answers["without_threshold"])
    given = [answer["label"] for answer in TextClassifier.load(folders["onnx"])(texts.validation_texts)]
    assert names[without.predictions].tolist() == given
    assert without.right.mean() == row.validation_accuracy
    refused = unpack_answers(answers["with_threshold"])
    assert row.with_threshold is not None
    assert refused.right.mean() == row.with_threshold["validation_accuracy"]
    changed = refused.predictions != without.predictions
    assert changed.any()
    assert set(names[refused.predictions[changed]]) == {"none_of_these"}


def test_a_row_that_fails_is_named(tmp_path: Path, texts: BenchmarkTexts) -> None:
    with pytest.raises(RunFailedError, match=r"benchmark of broken failed.*model\.onnx is missing"):
        measure_models([MeasurementSpec("broken", "onnx", str(tmp_path), 16)], texts, QUICK)
    with pytest.raises(InputError, match="at least one text"):
        measure_models([], replace(texts, test_texts=[], test_labels=[]), QUICK)


def test_labels_that_the_data_lacks_are_named(folders: dict[str, Path], texts: BenchmarkTexts) -> None:
    other = replace(texts, label_names=["a", "b", "c", "d"], out_of_scope_label=None)
    with pytest.raises(RunFailedError, match=r"label 'label_.' is not one of the 4 labels"):
        measure_models([MeasurementSpec("onnx", "onnx", str(folders["onnx"]), 16)], other, QUICK)


@pytest.mark.slow
def test_the_reference_has_latency_and_size_only(folders: dict[str, Path], texts: BenchmarkTexts) -> None:
    spec = MeasurementSpec("reference-bert-base", "reference", str(folders["student"]), 16)
    (row,) = measure_models([spec], texts, QUICK)
    assert row.accuracy is row.validation_accuracy is row.in_scope_accuracy is row.oos_recall is None
    # 109,485,316 parameters with 4 labels, 4 bytes each, plus the file's header.
    assert row.size_mb == pytest.approx(109_485_316 * 4 / 2**20, rel=1e-3)
    assert row.latency_ms["p50"] > 1


def test_the_reference_takes_the_given_tokenizer_and_published_shape(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    # A small BERT-base with fewer pieces than the tokenizer has.
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    small = partial(transformers.BertConfig, **shape, vocab_size=10)
    monkeypatch.setattr(transformers, "BertConfig", small)
    size = write_reference(folders["student"], tmp_path / "reference", num_labels=7)
    assert json.loads((tmp_path / "reference" / "reference.json").read_text()) == {"bytes": size}
    assert size < model_bytes(tmp_path / "reference")
    assert (tmp_path / "reference" / "tokenizer.json").is_file()
