"""Variants and measurements are found one by one by the content of their inputs, even under another goal."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distiltune.cluster.pipeline import run_job
from distiltune.cluster.pipeline.ratios import RatioMeasurement
from distiltune.cluster.pipeline.reuse import models as model_reuse
from distiltune.cluster.pipeline.reuse.models import ModelReuse
from distiltune.cluster.pipeline.reuse.specs import measurement_specs
from distiltune.cluster.remote.tasks import (
    benchmark_texts,
    measured_logits,
    measurement_record,
    validation_texts,
    variant_record,
)
from distiltune.cluster.specification.config import JobConfig, load_config
from distiltune.cluster.specification.goal import goal_of
from distiltune.cluster.store.runs import Run, Storage, now
from distiltune.cluster.store.stage_index import write_result
from distiltune.errors import ExportError, InputError, RunFailedError
from distiltune.export.benchmark.measure_models import Measurement, judge_again
from distiltune.export.benchmark.targets.outputs import ScoredModel
from distiltune.export.out_of_scope.fit_scores import LOGITS_FILE, refit_scores
from distiltune.training.data.text_data import TextData, load_data

NAMES = ["onnx", "onnx-int8"]
TIMES = {"mean": 2.0, "std": 0.0, "p50": 2.0, "p90": 2.0, "p99": 2.0}

BEST = {
    "trial_id": "0002",
    "epoch": 3,
    "metric": "accuracy",
    "value": 0.8,
    "validation_accuracy": 0.8,
    "parameters": {},
    "metrics": {},
    "alpha": 0.5,
    "temperature": 2,
    "num_train_epochs": 3,
}


def job(*overrides: str) -> JobConfig:
    usual = {"export.variants": json.dumps(NAMES), "benchmark.baselines": "[]"}
    given = usual | dict(each.split("=", 1) for each in overrides)
    return load_config("quickstart-scratch", [f"{name}={value}" for name, value in given.items()])


@pytest.fixture(scope="module")
def data() -> TextData:
    return load_data(job().data)


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(str(tmp_path))


def logits_of(data: TextData, split: str, seed: int) -> np.ndarray:
    """Logits that are right on most texts: noise with the text's own label on top."""
    rng, labels = np.random.default_rng(seed), np.array(data.splits[split]["label"][:])
    found = rng.normal(size=(len(labels), len(data.label_names))).astype(np.float32)
    found[np.arange(len(labels)), labels] += 2
    return found


def write_folder(run: Run, key: str, files: dict[str, str]) -> Path:
    folder = run.store.local(key)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def searched(storage: Storage, name: str, student: str = "weights") -> Run:
    """A run whose search is finished; runs with the same student have found the same model."""
    run = Run(storage.store, name)
    run.write("run.json", {"created": now(), "state": "running"})
    teacher = "cache/teachers/" + "a" * 32
    results = {"teacher": {"key": teacher}, "search": {"best": BEST, "trials": []}}
    for stage, result in results.items():
        run.store.write_json(
            run.key(f"stages/{stage}.json"), {"state": "finished", "started": now(), "result": result}
        )
    write_folder(run, run.best, {"model.safetensors": student, "tokenizer.json": "{}", "config.json": "{}"})
    if not run.store.has_folder(teacher):
        write_folder(run, teacher, {"model.safetensors": "teacher", "tokenizer.json": "{}"})
    return run


def build(run: Run, config: JobConfig, data: TextData, name: str, seed: int = 0) -> dict[str, Any]:
    """Write what the task of a variant leaves in the store, without a usable graph."""
    settings = {
        "task": "single_label",
        "labels": data.label_names,
        "max_length": 32,
        "pad_token_id": 0,
        "out_of_scope_label": data.out_of_scope_label,
        "threshold": None,
        "num_threads": 1,
    }
    files = {"model.onnx": name, "distiltune.json": json.dumps(settings)}
    folder = write_folder(run, run.variant(name), files)
    np.save(folder / LOGITS_FILE, logits_of(data, "validation", seed))
    refit_scores(folder, validation_texts(config, data), num_threads=1)
    content = f"{name} of {(run.store.fetch(run.best) / 'model.safetensors').read_text()}"
    record = {"name": name, "content": content, "max_abs_diff": 0.1, "fused": None, "seconds": 9.0}
    write_result(run, variant_record(name), ModelReuse(config, run, data).variant_key(name), record)
    return record


def measure(run: Run, config: JobConfig, data: TextData, tmp_path: Path, *names: str) -> None:
    """Write what the task of a benchmark leaves in the store for the models of these names, or for all."""
    models, specs = ModelReuse(config, run, data), measurement_specs(config, run)
    keys = models.measurement_keys(specs)
    for spec in specs:
        if names and spec.name not in names:
            continue
        file = tmp_path / f"{spec.name}.npz"
        logits = {split: logits_of(data, split, 0) for split in ("validation", "test")}
        ScoredModel(data.label_names, logits).save(file)
        bare = Measurement(spec.name, spec.kind, 1.0, TIMES, TIMES, {"1": 9.0}, 3.0, 1, "a text")
        goal, texts = goal_of(config, data), benchmark_texts(config, data)
        folder = run.store.fetch(spec.directory) if spec.directory else None
        judged = judge_again(bare, file, folder, texts, goal)
        run.store.upload(file, run.key(measured_logits(spec.name)))
        write_result(run, measurement_record(spec.name), keys[spec.name], judged.to_json())


def finish(run: Run, stage: str, result: dict[str, Any]) -> None:
    run.store.write_json(
        run.key(f"stages/{stage}.json"), {"state": "finished", "started": now(), "result": result}
    )


@pytest.fixture
def first(storage, data, tmp_path) -> Run:
    """A run that has exported and measured two variants."""
    run, config = searched(storage, "first"), job()
    finish(run, "export", {"variants": [build(run, config, data, name) for name in NAMES]})
    measure(run, config, data, tmp_path)
    return run


def sidecar(run: Run, name: str) -> dict[str, Any]:
    return json.loads((run.store.fetch(run.variant(name)) / "distiltune.json").read_text())


def new_run(storage: Storage, data: TextData, *overrides: str, name: str = "second", **student: str):
    run, config = searched(storage, name, **student), job(*overrides)
    return run, ModelReuse(config, run, data)


@pytest.mark.usefixtures("first")
def test_a_changed_gate_repeats_neither_export_nor_benchmark(storage, data) -> None:
    run, models = new_run(storage, data, "export.choose.minimise=size_mb")
    assert models.finish_stages() == {
        "export": "onnx, onnx-int8 (of run first)",
        "benchmark": "4 models measured (of run first)",
    }
    exported, measured = run.stage_record("export"), run.stage_record("benchmark")
    assert (exported["seconds"], measured["seconds"]) == (0.0, 0.0)
    assert [each["seconds"] for each in exported["result"]["variants"]] == [0.0, 0.0]
    assert [each["reused"]["run_id"] for each in measured["result"]["measurements"]] == ["first"] * 4
    assert measured["result"]["machine"]["cpu"]
    assert ModelReuse(job(), run, data).finish_stages() == {}


def test_a_student_without_attention_has_no_fused_variants(storage, data, tmp_path) -> None:
    config = job('export.variants=["onnx", "onnx-fused", "onnx-int8", "onnx-fused-int8"]')
    run = searched(storage, "convolution")
    (run.store.local(run.best) / "config.json").write_text('{"model_type": "distiltune-convolution"}')
    models = ModelReuse(config, run, data)
    assert models.variant_names == NAMES
    for name in NAMES:
        build(run, config, data, name)
    made = models.variants()
    assert list(made) == NAMES
    result, text = models.exported(made)
    reason = "distiltune-convolution has no attention to fuse"
    assert result["skipped"] == {"onnx-fused": reason, "onnx-fused-int8": reason}
    assert [each["name"] for each in result["variants"]] == NAMES
    assert text.endswith(f"; skipped onnx-fused: {reason}; skipped onnx-fused-int8: {reason}")
    assert set(models.finish_stages()) == {"export"}
    assert [spec.name for spec in measurement_specs(config, run)][2:4] == NAMES


def test_variants_none_of_which_fits_the_student_are_refused(storage, data) -> None:
    run = searched(storage, "convolution")
    (run.store.local(run.best) / "config.json").write_text('{"model_type": "distiltune-convolution"}')
    models = ModelReuse(job('export.variants=["onnx-fused", "student-pytorch-int8"]'), run, data)
    with pytest.raises(
        ExportError, match=r"^export\.variants: onnx-fused, student-pytorch-int8 given, .*; add onnx$"
    ):
        _ = models.variant_names


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize(
    ("override", "variants", "num_measured"),
    [
        ("export.variants=[onnx, onnx-int8, onnx-fp16]", ["onnx", "onnx-int8"], 4),
        ("export.variants=[onnx-int8]", ["onnx-int8"], 3),
        ("export.out_of_scope.in_scope_weight=0.5", NAMES, 4),
        ("export.out_of_scope=null", NAMES, 2),  # without a score to compute, the graphs answer faster
        ("export.out_of_scope.score=max_logit", NAMES, 2),
        ("export.out_of_scope.score=margin", NAMES, 4),  # as by default
        ("export.static.max_excluded=7", NAMES, 4),
        ("export.sensitivity=true", ["onnx"], 3),
        ("export.opset=21", [], 2),
        ("training.max_length=16", [], 0),
        ("benchmark.num_runs=7", NAMES, 0),
        ("benchmark.num_threads=2", NAMES, 0),
        ("benchmark.interleaved=false", NAMES, 4),
        ("benchmark.reuse=false", NAMES, 0),
        ("storage.reuse=false", [], 0),
        # Measurements of different machines are not comparable.
        ("resources.address=10.0.0.1:6379", NAMES, 0),
    ],
)
def test_what_a_change_does_not_touch_is_found(override, variants, num_measured, storage, data) -> None:
    run, models = new_run(storage, data, override)
    made = models.variants()
    assert list(made) == variants
    names = models._config.export.variants
    new = {"content": "a new graph", "max_abs_diff": 0.0, "fused": None}
    finish(run, "export", {"variants": [made.get(name) or {"name": name, **new} for name in names]})
    assert len(models.measurements(measurement_specs(models._config, run))) == num_measured


@pytest.mark.usefixtures("first")
def test_another_student_has_other_variants_and_the_same_teacher(storage, data) -> None:
    run, models = new_run(storage, data, student="other weights")
    assert models.variants() == {}
    finish(run, "export", {"variants": []})
    assert list(models.measurements(measurement_specs(models._config, run))) == ["teacher-pytorch"]


@pytest.mark.usefixtures("first")
def test_other_texts_versions_or_another_processor_are_other_inputs(storage, data, monkeypatch) -> None:
    run, here = searched(storage, "second"), model_reuse.describe_machine()
    fewer = data.splits.copy()
    fewer["test"] = data.splits["test"].select(range(20))
    assert ModelReuse(job(), run, TextData(fewer, data.out_of_scope_label, [])).variants() == {}
    for changed in ({"versions": {"onnxruntime": "0"}}, {"instruction_sets": ["asimd"]}):
        monkeypatch.setattr(model_reuse, "describe_machine", lambda changed=changed: {**here, **changed})
        assert ModelReuse(job(), run, data).variants() == {}
    monkeypatch.setattr(model_reuse, "describe_machine", lambda: {**here, "cpu": "another"})
    assert set(ModelReuse(job(), run, data).finish_stages()) == {"export"}


def test_a_changed_goal_gives_what_a_new_export_gives(storage, data, first) -> None:
    changed = job("export.out_of_scope.max_in_scope_refused=0.2")
    run, models = new_run(storage, data, "export.out_of_scope.max_in_scope_refused=0.2")
    assert set(models.finish_stages()) == {"export", "benchmark"}
    built = searched(storage, "built")
    build(built, changed, data, "onnx")
    assert sidecar(run, "onnx") == sidecar(built, "onnx") != sidecar(first, "onnx")
    rows = {each["name"]: each for each in run.stage_record("benchmark")["result"]["measurements"]}
    own, before = rows["onnx"]["with_threshold"], ModelReuse(job(), first, data)
    assert own["value"] == sidecar(run, "onnx")["threshold"]["value"]
    (old,) = (
        each
        for each in before.measurements(measurement_specs(job(), first)).values()
        if each.name == "onnx" and each.with_threshold
    )
    assert own["in_scope_refused"] > (old.with_threshold or {})["in_scope_refused"]
    assert (rows["onnx"]["accuracy"], rows["onnx"]["latency_ms"]) == (old.accuracy, old.latency_ms)
    assert rows["teacher-pytorch"]["with_threshold"]["value"] == pytest.approx(own["value"])


@pytest.mark.usefixtures("first")
def test_without_a_goal_a_variant_gets_the_label_of_the_data_alone(storage, data) -> None:
    run, models = new_run(storage, data, "export.out_of_scope=null")
    assert list(models.variants()) == NAMES
    settings = sidecar(run, "onnx")
    assert (settings["threshold"], settings["out_of_scope_label"]) == (None, data.out_of_scope_label)


@pytest.mark.usefixtures("first")
def test_the_number_of_threads_is_written_beside_a_reused_graph(storage, data) -> None:
    run, models = new_run(storage, data, "benchmark.num_threads=2")
    assert list(models.variants()) == NAMES
    assert sidecar(run, "onnx")["num_threads"] == 2


def test_a_run_finds_its_own_results_and_does_not_mark_them(data, first, tmp_path) -> None:
    """As after an interruption between two variants, or two measurements."""
    (first.store.local(first.key("stages")) / "export.json").unlink()
    models = ModelReuse(job(), first, data)
    assert set(models.finish_stages()) == {"export", "benchmark"}
    rows = first.stage_record("benchmark")["result"]["measurements"]
    assert [each["reused"] for each in rows] == [None] * 4


@pytest.mark.parametrize("what", ["record", "folder", "logits", "cut off", "replaced"])
def test_a_result_that_is_gone_or_replaced_is_not_found(what, storage, data, first) -> None:
    if what == "record":
        first.store.delete(first.key(variant_record("onnx")))
    elif what == "folder":
        first.store.delete(first.variant("onnx"))
    elif what == "replaced":  # as `distiltune choose` and `resume` do: the folder has another student's graph
        write_result(first, variant_record("onnx"), "f" * 32, {})
    elif what == "cut off":
        file = first.store.local(first.key(measured_logits("onnx")))
        file.write_bytes(file.read_bytes()[:200])
    else:
        first.store.delete(first.key(measured_logits("onnx")))
    run, models = new_run(storage, data)
    no_logits = what in ("logits", "cut off")
    expected = NAMES if no_logits else ["onnx-int8"]
    assert list(models.variants()) == expected
    if no_logits:
        assert set(models.finish_stages()) == {"export"}
        found = models.measurements(measurement_specs(job(), run))
        assert list(found) == ["teacher-pytorch", "student-pytorch", "onnx-int8"]


def test_what_is_partly_reused_names_its_runs(storage, data, first) -> None:
    _, models = new_run(storage, data, "export.variants=[onnx, onnx-int8, onnx-fp16]")
    made = {**models.variants(), "onnx-fp16": {"name": "onnx-fp16"}}
    assert models.exported(made)[1] == "onnx, onnx-int8, onnx-fp16 (of run first: onnx, onnx-int8)"
    assert models.exported({name: {"name": name} for name in made})[1] == "onnx, onnx-int8, onnx-fp16"


RATIO = {"faster": 20.8, "low": 20.1, "high": 21.5, "num_rounds": 20, "own_ms": 1.0, "base_ms": 20.8}


def test_ratios_are_measured_once_for_the_same_pair(storage, data, first, monkeypatch) -> None:
    calls: list[tuple[str, list[str]]] = []

    def timed(self, variant, bases, report):
        calls.append((variant[0].name, [spec.name for spec, _ in bases]))
        return {spec.name: RATIO for spec, _ in bases}

    monkeypatch.setattr(RatioMeasurement, "_timed", timed)

    def ratios(run: Run, chosen: str, *overrides: str) -> dict[str, dict[str, Any]]:
        config = job(*overrides)
        models = ModelReuse(config, run, data)
        rows = ModelReuse(job(), run, data).measurements(specs)
        return RatioMeasurement(config, run, data, models).measure(chosen, rows, lambda _: None)

    specs = measurement_specs(job(), first)
    assert ratios(first, "onnx-int8") == {"teacher-pytorch": RATIO}
    run, models = new_run(storage, data)
    models.finish_stages()
    found = ratios(run, "onnx-int8")["teacher-pytorch"]
    assert found == {**RATIO, "reused": {"run_id": "first", "at": found["reused"]["at"]}}
    assert calls == [("onnx-int8", ["teacher-pytorch"])]
    ratios(run, "onnx")
    ratios(run, "onnx-int8", "benchmark.reuse=false")
    assert [name for name, _ in calls] == ["onnx-int8", "onnx", "onnx-int8"]
    assert ratios(run, "onnx", "benchmark.interleaved=false") == {}
    assert len(calls) == 3


def test_a_ratio_that_cannot_be_measured_fails_no_run(data, first, monkeypatch, caplog) -> None:
    def fails(*_: object) -> None:
        raise RunFailedError("benchmark of onnx failed with status 1")

    monkeypatch.setattr(RatioMeasurement, "_timed", fails)
    models = ModelReuse(job(), first, data)
    rows = models.measurements(measurement_specs(job(), first))
    assert RatioMeasurement(job(), first, data, models).measure("onnx", rows, lambda _: None) == {}
    assert "benchmark of onnx failed with status 1" in caplog.text


def begin(run: Run, config: JobConfig, data: TextData) -> None:
    run_job.refuse_other_specification(run, config)
    run_job._begin(run, config, "job", data)


def test_a_run_is_resumed_with_another_list_of_variants(storage, data, first) -> None:
    begin(first, job(), data)
    finish(
        first, "benchmark", {"measurements": [], "machine": {}, "label_names": [], "out_of_scope_id": None}
    )
    finish(first, "gate", {"variants": [], "chosen": None})
    changed = job("export.variants=[onnx-int8]")
    begin(first, changed, data)
    assert [first.stage_record(stage) for stage in ("export", "benchmark", "gate")] == [{}, {}, {}]
    assert first.stage_record("search")["state"] == "finished"
    assert first.specification() == changed
    models = ModelReuse(changed, first, data)
    assert models.finish_stages()["benchmark"] == "3 models measured"
    rows = first.stage_record("benchmark")["result"]["measurements"]
    assert [row["name"] for row in rows] == ["teacher-pytorch", "student-pytorch", "onnx-int8"]


def test_a_changed_benchmark_exports_nothing_again_and_a_changed_search_is_refused(data, first) -> None:
    begin(first, job(), data)
    begin(first, job("benchmark.num_runs=7"), data)
    assert first.stage_record("export")["state"] == "finished"
    with pytest.raises(InputError, match=r"different: search"):
        begin(first, job("search.num_trials=9"), data)
    assert first.specification() == job("benchmark.num_runs=7")


def test_the_stages_after_a_changed_section_run_again_in_order(first) -> None:
    first.write("job.json", job().model_dump(mode="json"))
    after = ["benchmark", "gate", "report", "artifact"]
    assert run_job.stages_again(first, job()) == []
    assert run_job.stages_again(first, job("benchmark.num_runs=7")) == after
    assert run_job.stages_again(first, job("benchmark.num_runs=7", "export.opset=20")) == ["export", *after]


def test_the_record_of_the_benchmark_has_what_a_plan_measures_with(storage, data, first) -> None:
    _, models = new_run(storage, data)
    models.finish_stages()
    record, _ = models.measured([], {}, None)
    assert record["label_names"] == data.label_names
    assert record["out_of_scope_id"] == data.out_of_scope_id


@pytest.mark.parametrize(
    ("override", "is_found"),
    [
        ("search.num_trials=3", True),
        ("training.max_length=16", True),  # it reads whole texts
        ("export.out_of_scope.in_scope_weight=0.5", True),
        ("benchmark.baselines=[tfidf-svm]", True),
        ("training.seed=7", False),
        ("training.balance=class_weights", False),
        ("benchmark.num_runs=7", False),
        ("benchmark.reuse=false", False),
    ],
)
def test_a_baseline_is_found_by_what_it_was_trained_with(override, is_found, storage, data, tmp_path) -> None:
    usual = "benchmark.baselines=[tfidf-svm]"
    run = searched(storage, "first")
    finish(run, "export", {"variants": []})
    measure(run, job(usual), data, tmp_path, "tfidf-svm")
    other, models = new_run(storage, data, usual, override, student="other weights")
    finish(other, "export", {"variants": []})
    found = models.measurements(measurement_specs(job(usual, override), other))
    assert (list(found) == ["tfidf-svm"]) == is_found
    assert not is_found or (found["tfidf-svm"].reused or {})["run_id"] == "first"


def test_more_baselines_leave_the_other_measurements_as_they_are(storage, data, first) -> None:
    """If the list changes, only its new entries are measured."""
    more = "benchmark.baselines=[tfidf-svm]"
    run, models = new_run(storage, data, more)
    assert models.finish_stages().keys() == {"export"}
    specs = measurement_specs(job(more), run)
    assert [spec.name for spec in specs if spec.name not in models.measurements(specs)] == ["tfidf-svm"]
