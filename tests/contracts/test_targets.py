"""The contract of every registered target, and a target registered from outside the package."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeSessions
from models import tiny_classifier, tiny_data
from pydantic import ValidationError

import distiltune.export.benchmark.measure_models as measuring
from distiltune.errors import ArtifactError, InputError
from distiltune.export.baselines.fit import BaselineTexts, fit_baseline
from distiltune.export.benchmark import measurements, targets, worker
from distiltune.export.benchmark.accuracy.predictions import pack_answers
from distiltune.export.benchmark.measure_models import (
    BenchmarkTexts,
    Measurement,
    MeasurementSpec,
    measure_models,
)
from distiltune.export.benchmark.targets import base
from distiltune.export.benchmark.targets.base import Opened, OpenOptions, Preparation, Prepared, Target
from distiltune.export.config import BenchmarkConfig, ChooseConfig, ExportConfig
from distiltune.export.report.plots.latency import draw_accuracy_latency
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.runtime.profile import PROFILED
from distiltune.export.runtime.session.providers import CUDA, TENSORRT
from distiltune.export.selection.select_variant import select_variant
from distiltune.export.variants import kinds
from distiltune.export.variants.build import build_variant

LABELS = [f"label_{n}" for n in range(4)]
TEXTS = [text for text, _ in tiny_data()]
NUMBERS = [LABELS.index(label) for _, label in tiny_data()]
QUICK = {
    "num_warmups": 0,
    "num_runs": 2,
    "num_sample_texts": 2,
    "batch_sizes": [2],
    "gpu_batch_sizes": [2],
    "num_threads": 1,
    "lengths": [64, 96],
    "effort": "quick",
}
# A target opens a variant, or else a checkpoint; one on a GPU opens what the target that it `measures` opens.
VARIANT_OF = {each.target: each.name for each in reversed(kinds.variants())}
ON_GPU = [each for each in targets.names() if targets.get(each).needs_gpu]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("student") / "student", label_names=LABELS)


@pytest.fixture(scope="module")
def folders(student: Path, tmp_path_factory: pytest.TempPathFactory, plain_graph) -> dict[str, Path]:
    """Target -> a folder that it opens."""
    root, found = tmp_path_factory.mktemp("rows"), {}
    options = {"config": ExportConfig(), "max_length": 16, "base_onnx": plain_graph(student, 16)}
    for name in targets.names():
        found[name] = student
        if targets.get(name).needs_gpu:
            found[name] = found[targets.get(name).measures]
        elif name in VARIANT_OF:
            found[name] = root / name
            build_variant(VARIANT_OF[name], student, root / name, **options)
    texts = BaselineTexts(TEXTS, NUMBERS, TEXTS, NUMBERS, LABELS)
    fit_baseline("tfidf-svm", texts, root / "baseline")
    (root / "answers").mkdir()
    logits = np.eye(len(LABELS), dtype=np.float32)[NUMBERS]
    scored = worker.ScoredModel(LABELS, {"validation": logits, "test": logits})
    scored.save(root / "answers" / "logits.npz")
    return {**found, "baseline": root / "baseline", "known-answers": root / "answers"}


@pytest.fixture(autouse=True)
def throughput_is_quick(monkeypatch) -> None:
    monkeypatch.setattr(measurements, "_LEAST_SECONDS_OF_THROUGHPUT", 0.01)


@pytest.fixture(autouse=True)
def keep_threads(monkeypatch) -> None:
    """Do not let a target set the threads of this process for the other tests; outside of tests it has its own."""
    for module in (targets.pytorch, targets.pytorch_int8, targets.torch_cuda):
        monkeypatch.setattr(module, "set_threads", lambda num_threads: None)


@pytest.fixture(autouse=True)
def gpu(request, monkeypatch) -> FakeSessions | None:
    """Stand in for the GPU of a target that needs one."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    return FakeSessions(monkeypatch) if name in ON_GPU else None


def specification(name: str, directory: Path, logits_file: Path) -> dict[str, Any]:
    """The input of a row's worker."""
    row = {"name": "a-row", "kind": name, "directory": str(directory), "max_length": 16}
    columns = {
        f"{split}_{kind}": value
        for split in ("validation", "test")
        for kind, value in (("texts", TEXTS), ("labels", NUMBERS))
    }
    return {
        "model": {**row, "tokenizer_dir": None, "session": None},
        "texts": {**columns, "label_names": LABELS, "out_of_scope_label": None, "task": "single_label"},
        "config": QUICK,
        "query": TEXTS[0],
        "compressed": False,
        "goal": None,
        "logits_file": str(logits_file),
    }


@pytest.mark.parametrize("name", targets.names())
def test_it_opens_a_row_that_answers_each_text_alone(name, folders) -> None:
    options = OpenOptions(str(folders[name]), 16, None, 1, None)
    if not targets.get(name).is_run:
        with pytest.raises(InputError, match="cannot be opened to classify texts"):
            targets.get(name).open(options)
        return
    opened = targets.get(name).open(options)
    assert opened.labels == LABELS
    logits = opened.logits(TEXTS)
    assert logits.shape == (len(TEXTS), len(LABELS))
    np.testing.assert_allclose(logits, np.concatenate([opened.logits([text]) for text in TEXTS]), atol=1e-6)
    [one] = opened.pipeline([TEXTS[0]], batch_size=1)
    assert one["label"] == LABELS[int(logits[0].argmax())]


@pytest.mark.parametrize("name", targets.names())
def test_its_rows_are_measured_as_it_declares(name, folders, tmp_path) -> None:
    logits = tmp_path / "logits.npz"
    target, measured = targets.get(name), worker.measure(specification(name, folders[name], logits))
    assert logits.exists() == target.has_accuracy
    if not target.is_run:
        assert measured["accuracy"] == measured["validation_accuracy"] == 1.0
        assert [measured[each] for each in ("latency_ms", "size_mb", "peak_memory_mb")] == [None] * 3
        return
    assert measured["latency_ms"]["p50"] > 0
    assert measured["size_mb"] > 0
    assert set(measured["throughput"]) == {"2"}
    assert ("accuracy" in measured) == target.has_accuracy
    assert ("answers" in measured) == target.has_accuracy
    assert target.has_accuracy or not target.is_gated
    profile = measured["profile_ms"]
    assert (profile is not None) == target.is_onnx
    if profile is not None:
        assert set(profile) == {*PROFILED, "first_call"}
        assert all(each > 0 for each in profile.values())
    lengths = measured["length_ms"]
    if lengths is not None:  # TensorRT has one length
        # A graph has 16 positions, as many as the job's texts need; the checkpoint has 66.
        most = 16 if target.is_onnx else 66 if name != "baseline" else 200
        assert list(lengths) == [each for each in ("16", "64", "96") if int(each) <= most]
        assert all(each["p50"] > 0 for each in lengths.values())
    assert (lengths is None) == (name == "tensorrt")
    assert ("files_mb" in measured) == target.can_be_sealed
    if target.can_be_sealed:
        read = [folders[name] / each for each in ("model.onnx", "tokenizer.json", "distiltune.json")]
        assert measured["files_mb"] == sum(each.stat().st_size for each in read) / 1e6
        assert measured["size_mb"] == read[0].stat().st_size / 2**20


@pytest.mark.parametrize("name", targets.names())
def test_what_is_tuned_and_counted_is_an_onnx_graph(name, folders, monkeypatch) -> None:
    called = []

    def call(module: str, *_: Any, **__: Any) -> dict[str, Any]:
        called.append(module)
        return {"session": {"a": 1}, "num_threads": 1}

    monkeypatch.setattr(measuring, "call_in_process", call)
    row, config = MeasurementSpec("a-row", name, str(folders[name]), 16), BenchmarkConfig()
    texts = BenchmarkTexts(TEXTS, NUMBERS, TEXTS, NUMBERS, LABELS)
    session, _ = measuring._tuned(row, texts, config, TEXTS[0])
    floor = measuring._floor_ms(row, config, TEXTS[0])
    assert (session is not None) == (floor is not None) == targets.get(name).is_tuned
    assert called == (
        ["benchmark.session_tuning", "benchmark.roofline"] if targets.get(name).is_tuned else []
    )


def measurement(name: str, kind: str, p50: float = 1.0) -> Measurement:
    times = {"mean": p50, "std": 0.0, "p50": p50, "p90": p50, "p99": p50}
    packed = {"without_threshold": pack_answers(np.zeros(9, int), np.zeros(9, int))}
    answers = {"validation": packed, "test": packed}
    common = {"size_mb": 1.0, "latency_ms": times, "sample_latency_ms": times, "throughput": {"1": 1.0}}
    given = {"peak_memory_mb": 1.0, "num_threads": 1, "query": "q", "validation_accuracy": 1.0}
    return Measurement(name=name, kind=kind, **common, **given, accuracy=1.0, answers=answers)


@pytest.mark.parametrize("name", targets.names())
def test_its_rows_are_gated_chosen_and_drawn_as_it_declares(name, tmp_path) -> None:
    target, others = targets.get(name), [measurement("student-pytorch", "pytorch", 9.0)]
    choice = select_variant([*others, measurement("a-row", name)], ChooseConfig(), place=target.place)
    [row] = [each for each in choice.measurements if each.name == "a-row"]
    assert (row.gate is not None) == target.is_gated
    assert choice.chosen == ("a-row" if target.can_be_sealed else None)
    picture = draw_accuracy_latency(
        [each.to_json() for each in choice.measurements], None, tmp_path / "x.png"
    )
    assert picture.stat().st_size > 0


def test_what_is_on_a_gpu_is_an_entry_of_the_configuration() -> None:
    assert [each.name for each in targets.places()] == [targets.CPU, *ON_GPU]
    assert BenchmarkConfig().targets == [targets.CPU]
    assert BenchmarkConfig(targets=[*ON_GPU, targets.CPU]).targets == [*ON_GPU, targets.CPU]
    items = BenchmarkConfig.model_json_schema()["properties"]["targets"]["items"]
    assert items["enum"] == [targets.CPU, *ON_GPU]
    for name in targets.names():
        assert targets.get(name).place == (name if name in ON_GPU else targets.CPU)
        assert targets.get(name).measures in {None, *targets.names()} - set(ON_GPU)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["cpu", "cpu"], "each target once"),
        (["cuda", "tensor-rt"], "did you mean 'tensorrt'"),
        ([], "at least 1"),
    ],
)
def test_a_wrong_list_of_targets_is_refused(given, message) -> None:
    with pytest.raises(ValidationError, match=message):
        BenchmarkConfig(targets=given)


@pytest.mark.parametrize("name", ON_GPU)
def test_what_its_runtime_lacks_is_reported_with_the_remedy(name, monkeypatch) -> None:
    monkeypatch.undo()  # no GPU is faked
    monkeypatch.setattr("torch.version.cuda", None)
    reason = targets.get(name).missing()
    assert reason is not None
    assert "\n" not in reason
    assert "install" in reason
    assert targets.get("onnx").missing() is None


@pytest.mark.parametrize("name", ON_GPU)
def test_its_runtime_is_there_where_it_is_installed(name, monkeypatch) -> None:
    monkeypatch.setattr("torch.version.cuda", "13.0")
    assert targets.get(name).missing() is None


@pytest.mark.parametrize("name", ["cuda", "tensorrt"])
def test_an_onnx_graph_on_a_gpu_has_its_provider_first_and_buffers(name, folders, gpu, tmp_path) -> None:
    measured = worker.measure(specification(name, folders[name], tmp_path / "logits.npz"))
    names = [[each if isinstance(each, str) else each[0] for each in given] for given in gpu.opened]
    wanted = {"cuda": [CUDA], "tensorrt": [TENSORRT, CUDA]}[name]
    assert names == [wanted] * (2 if name == "cuda" else 1)  # the second has CUDA graphs
    assert gpu.graph_ids
    assert measured["num_nodes"] == {"CPUExecutionProvider": measured["num_nodes"]["CPUExecutionProvider"]}
    assert (measured["engine_build_s"] is not None) == (name == "tensorrt")
    graphs = measured["cuda_graphs"]
    assert (graphs is not None) == (name == "cuda")
    if graphs is not None:
        assert gpu.opened[1] == [(CUDA, {"enable_cuda_graph": "1"})]
        assert graphs["latency_ms"]["p50"] > 0
        assert set(graphs["throughput"]) == {"2"}


def test_a_graph_that_cannot_be_captured_is_measured_without(folders, gpu, tmp_path, monkeypatch) -> None:
    FakeSessions(monkeypatch)
    load = TextClassifier.load

    def refuse(*arguments, cuda_graphs=False, **more):
        if cuda_graphs:
            raise ArtifactError("not all nodes are on CUDA")
        return load(*arguments, **more)

    monkeypatch.setattr(TextClassifier, "load", refuse)
    measured = worker.measure(specification("cuda", folders["cuda"], tmp_path / "logits.npz"))
    assert measured["cuda_graphs"] == {"error": "not all nodes are on CUDA"}
    assert measured["throughput"]["2"] > 0


def test_an_engine_takes_every_batch_up_to_the_largest(folders, gpu, tmp_path, monkeypatch) -> None:
    fake = FakeSessions(monkeypatch)
    given = specification("tensorrt", folders["tensorrt"], tmp_path / "x.npz")
    given["config"] = {**QUICK, "gpu_batch_sizes": [1, 7]}
    worker.measure(given)
    [(_, options), _] = fake.opened[0]
    assert options["trt_profile_min_shapes"] == "input_ids:1x1,attention_mask:1x1"
    assert options["trt_profile_opt_shapes"] == "input_ids:7x16,attention_mask:7x16"
    assert options["trt_profile_max_shapes"] == "input_ids:7x16,attention_mask:7x16"


def test_an_unknown_kind_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InputError, match=r"'abacus' given.*onnx.*pytorch-int8"):
        targets.get("abacus")
    with pytest.raises(ValueError, match="onnx"):
        base.register(targets.get("onnx"))


def test_every_variant_names_a_target_that_there_is() -> None:
    assert {each.target for each in kinds.variants()} <= set(targets.names())


def test_a_target_from_outside_is_prepared_opened_and_measured(
    folders, tmp_path, monkeypatch, request
) -> None:
    """It is measured in this process, since a worker knows only the targets of the package."""
    prepared = []

    def prepare(given: Preparation) -> Prepared:
        prepared.append((given.name, given.directory, given.num_outputs, given.num_threads))
        return Prepared(str(folders["onnx"]), 12.5)

    def opened(options: OpenOptions) -> Opened:
        return targets.get("onnx").open(options)

    def run(module: str, arguments: list[str], **_: Any) -> None:
        monkeypatch.setattr("sys.argv", [module, *arguments])
        monkeypatch.setattr(worker, "end_with_parent", lambda: None)
        worker.main()

    base.register(Target("abacus", "by hand", opened, prepare))
    request.addfinalizer(lambda: base.TARGETS.pop("abacus"))
    monkeypatch.setattr(measuring, "run_module", run)
    texts = BenchmarkTexts(TEXTS, NUMBERS, TEXTS, NUMBERS, LABELS)
    spec = MeasurementSpec("by-hand", "abacus", str(tmp_path), 16)
    [row] = measure_models([spec], texts, BenchmarkConfig.model_validate(QUICK))
    assert prepared == [("by-hand", str(tmp_path), 4, 1)]
    assert (row.kind, row.size_mb, row.session, row.floor_ms) == ("abacus", 12.5, None, None)
    [onnx] = measure_models(
        [replace(spec, kind="onnx", directory=str(folders["onnx"]))],
        texts,
        BenchmarkConfig.model_validate({**QUICK, "tune_session": False, "floors": False}),
    )
    assert row.accuracy == onnx.accuracy
