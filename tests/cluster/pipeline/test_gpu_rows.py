"""Models that are measured on a GPU as well: their rows, their tasks, and what is selected and sealed of them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from distiltune.cluster.pipeline import dispatch, finalize
from distiltune.cluster.pipeline.dispatch import Dispatcher
from distiltune.cluster.pipeline.finalize import teacher_beside
from distiltune.cluster.pipeline.reuse.models import ModelReuse
from distiltune.cluster.pipeline.reuse.specs import measurement_specs
from distiltune.cluster.pipeline.stages import Stages
from distiltune.cluster.specification.config import JobConfig, load_config
from distiltune.cluster.specification.resources import TaskResources
from distiltune.cluster.store.runs import Storage, now
from distiltune.export.benchmark.accuracy.predictions import pack_answers
from distiltune.export.benchmark.measure_models import Measurement, MeasurementSpec
from distiltune.export.config import ChooseConfig
from distiltune.export.selection.select_variant import select_variant

MADE = ["onnx", "onnx-fused-fp16", "onnx-int8", "onnx-tensorrt-int8", "student-pytorch-int8"]
ORIGINALS = ["teacher-pytorch", "student-pytorch"]


def job(*overrides) -> JobConfig:
    usual = [f"export.variants={json.dumps(MADE)}", "benchmark.baselines=[]"]
    return load_config("quickstart-scratch", [*usual, *overrides])


@pytest.fixture
def run(tmp_path):
    run = Storage(str(tmp_path), retry_s=0).create("a")
    variants = [{"name": name, "content": name, "max_abs_diff": 0.1, "fused": None} for name in MADE]
    for stage, result in (("teacher", {"key": "cache/teachers/t"}), ("export", {"variants": variants})):
        run.write(
            f"stages/{stage}.json", {"stage": stage, "state": "finished", "started": now(), "result": result}
        )
    return run


def rows(run, *overrides) -> list[tuple[str, str]]:
    return [(spec.name, spec.kind) for spec in measurement_specs(job(*overrides), run)]


def test_every_model_has_its_row_on_the_cpu(run):
    kinds = ["pytorch", "pytorch", "onnx", "onnx", "onnx", "onnx", "pytorch-int8"]
    assert rows(run) == list(zip([*ORIGINALS, *MADE], kinds, strict=True))


def test_a_target_measures_the_models_that_it_opens_under_names_of_its_own(run):
    found = rows(run, "benchmark.targets=[cpu, torch-cuda, cuda, tensorrt]")
    assert found[: len(ORIGINALS) + len(MADE)] == rows(run)
    assert found[len(ORIGINALS) + len(MADE) :] == [
        ("teacher-pytorch@torch-cuda", "torch-cuda"),
        ("student-pytorch@torch-cuda", "torch-cuda"),
        ("onnx@cuda", "cuda"),
        ("onnx-fused-fp16@cuda", "cuda"),
        ("onnx@tensorrt", "tensorrt"),
        ("onnx-tensorrt-int8@tensorrt", "tensorrt"),
    ]


def test_without_the_cpu_only_what_the_gate_compares_with_is_measured_there(run):
    found = rows(run, "benchmark.targets=[cuda]")
    assert found == [
        *((name, "pytorch") for name in ORIGINALS),
        ("onnx@cuda", "cuda"),
        ("onnx-fused-fp16@cuda", "cuda"),
    ]
    of_gpu = measurement_specs(job("benchmark.targets=[cuda]"), run)[-1]
    assert of_gpu.model_name == "onnx-fused-fp16"
    assert of_gpu.directory == run.variant("onnx-fused-fp16")


def test_a_row_on_a_gpu_has_the_content_of_its_model_and_a_key_of_its_own(run):
    config = job("benchmark.targets=[cpu, cuda]")
    data = SimpleNamespace(fingerprint="f", out_of_scope_label=None, out_of_scope_id=None, label_names=["a"])
    models = ModelReuse(config, run, data)
    on_cpu = MeasurementSpec("onnx", "onnx", run.variant("onnx"), 32)
    keys = models.measurement_keys([on_cpu, on_cpu.on("cuda")])
    assert len(set(keys.values())) == 2

    def key(spec, *overrides):
        made = ModelReuse(job(*overrides), run, data)
        return made.measurement_keys([spec])[spec.name]

    # A further target, or batch sizes that a row does not read, repeat no measurement.
    assert key(on_cpu) == key(on_cpu, "benchmark.targets=[cpu, cuda]", "benchmark.gpu_batch_sizes=[4]")
    assert key(on_cpu) != key(on_cpu, "benchmark.batch_sizes=[4]")
    assert key(on_cpu.on("cuda")) == key(on_cpu.on("cuda"), "benchmark.batch_sizes=[4]")
    assert key(on_cpu.on("cuda")) != key(on_cpu.on("cuda"), "benchmark.gpu_batch_sizes=[4]")


# --- Tasks -------------------------------------------------------------------------------------------------------


def measurement(name, kind, p50=1.0, **more) -> Measurement:
    times = {"mean": p50, "std": 0.0, "p50": p50, "p90": p50, "p99": p50}
    packed = {"without_threshold": pack_answers(np.zeros(9, int), np.zeros(9, int))}
    return Measurement(
        name=name,
        kind=kind,
        size_mb=1.0,
        latency_ms=times,
        sample_latency_ms=times,
        throughput={"1": 1.0},
        peak_memory_mb=1.0,
        num_threads=1,
        query="q",
        accuracy=1.0,
        validation_accuracy=1.0,
        answers={"validation": packed, "test": packed},
        **more,
    )


@pytest.mark.parametrize(
    ("places", "given", "taken"),
    [
        ("[cpu]", "{cpu: 2}", [("", None, 7)]),
        ("[cpu, cuda]", "{cpu: 2}", [("", None, 7), ("gpu", 1, 2)]),
        ("[cpu, cuda]", "{cpu: 2, gpu: null}", [("", None, 7), ("gpu", 1, 2)]),
        ("[cuda, torch-cuda]", "{cpu: 2, gpu: 0.5, custom: {x: 1}}", [("", 0.5, 2), ("gpu", 0.5, 4)]),
    ],
)
def test_rows_on_a_gpu_are_a_task_of_their_own_on_a_node_that_has_one(places, given, taken, run):
    config, sent = job(f"benchmark.targets={places}", f"resources.benchmark={given}"), []

    class Alone:
        def do_alone(self, stage, function, wanted, specs, data, run_id, keys, *, report, part):
            sent.append((part, wanted.gpu, len(specs)))
            measured = [measurement(each.name, each.kind, model=each.model).to_json() for each in specs]
            return {"measurements": measured, "machine": {"cpu": f"of {part}"}, "left_out": {}}

    data = SimpleNamespace(label_names=["a"], out_of_scope_id=None)
    models = ModelReuse(config, run, data)
    models.measurements = lambda specs: {}
    models.measurement_keys = lambda specs: {}
    stages = Stages(config, config, run, data, models)
    stages._dispatcher = Alone()
    result, _ = stages.benchmark(lambda _: None)
    assert [(part, gpu or None, count) for part, gpu, count in sent] == taken
    assert result["machine"] == {"cpu": "of "}
    assert result["gpu_machine"] == (None if places == "[cpu]" else {"cpu": "of gpu"})
    names = [each["name"] for each in result["measurements"]]
    assert names == [spec.name for spec in measurement_specs(config, run)]


def test_a_task_alone_on_its_node_has_the_gpus_that_it_asks_for(run, monkeypatch):
    sent = []
    monkeypatch.setattr(dispatch, "whole_node", lambda wanted, report: ("a" * 56, 16.0))
    dispatcher = Dispatcher(JobConfig(), run)

    def send(stage, function, wanted, *arguments, part="", **options):
        sent.append((wanted, part))

    monkeypatch.setattr(dispatcher, "send", send)
    monkeypatch.setattr(dispatcher, "wait", lambda stage, task, report, wanted, part: part)
    wanted = TaskResources(cpu=2, gpu=1, custom={"x": 1})
    assert dispatcher.do_alone("benchmark", print, wanted, report=print, part="gpu") == "gpu"
    dispatcher.do_alone("benchmark", print, TaskResources(gpu=0), report=print)
    assert sent == [
        (TaskResources(cpu=16, gpu=1, custom={"x": 1}), "gpu"),
        (TaskResources(cpu=16, gpu=0), ""),
    ]


# --- Selection, seal ---------------------------------------------------------------------------------------------

TEACHERS = [
    measurement("teacher-pytorch", "pytorch", 40.0),
    measurement("teacher-pytorch@torch-cuda", "torch-cuda", 4.0, model="teacher-pytorch"),
]
ROWS = [
    *TEACHERS,
    measurement("student-pytorch", "pytorch", 9.0),
    measurement("onnx", "onnx", 2.0),
    measurement("onnx-int8", "onnx", 1.0),
    measurement("onnx@cuda", "cuda", 0.8, model="onnx"),
    measurement("onnx-fused-fp16@cuda", "cuda", 0.5, model="onnx-fused-fp16"),
]


@pytest.mark.parametrize(("place", "chosen"), [("cpu", "onnx-int8"), ("cuda", "onnx-fused-fp16@cuda")])
def test_the_first_target_selects_and_the_others_are_compared(place, chosen):
    without_limits = ChooseConfig(max_drop_from_student=None, max_drop_from_teacher=None)
    selection = select_variant(ROWS, without_limits, place=place)
    assert selection.chosen == chosen
    verdicts = {each.name: each.verdict for each in selection.measurements}
    assert verdicts[chosen].startswith("selected: ")
    for each in selection.measurements:
        if each.place != place and each.kind in ("onnx", "cuda"):
            assert each.verdict == f"for comparison only: the selection is by the measurements on {place}"
            assert each.gate == "passed"


@pytest.mark.parametrize(
    ("place", "measured", "expected"),
    [
        ("cpu", TEACHERS, "teacher-pytorch"),
        ("cuda", TEACHERS, "teacher-pytorch@torch-cuda"),
        ("cuda", TEACHERS[:1], "teacher-pytorch"),
        ("cpu", [], None),
    ],
)
def test_a_variant_is_compared_with_the_teacher_beside_it(place, measured, expected):
    found = teacher_beside(place, {each.name: each for each in measured})
    assert (found and found.name) == expected


@pytest.mark.parametrize(
    ("chosen", "variant"), [("onnx-int8", "onnx-int8"), ("onnx-fused-fp16@cuda", "onnx-fused-fp16")]
)
def test_the_variant_of_the_selected_row_is_sealed(chosen, variant, run, monkeypatch):
    sealed = {}
    gate = {
        "variants": [each.to_json() for each in ROWS],
        "chosen": chosen,
        "ratios": {},
        "against_baselines": [],
    }
    machines = {"machine": {"cpu": "c"}, "gpu_machine": {"cpu": "g"}}
    benchmark = {"measurements": [], "label_names": ["a"], "out_of_scope_id": None, **machines}
    best = {"parameters": {}, "metric": "accuracy"}
    records = {"gate": gate, "benchmark": benchmark, "search": {"best": best}}
    records["teacher"] = {"key": "t", "validation_accuracy": 0.9}
    monkeypatch.setattr(run, "stage_record", lambda stage: {"result": records.get(stage, {})})
    (run.store.local(run.variant(variant))).mkdir(parents=True)
    run.store.local(run.artifact).mkdir(parents=True)
    monkeypatch.setattr(
        finalize, "seal_artifact", lambda source, target, **more: sealed.update(more, source=source)
    )
    _, text = finalize.seal_chosen(job(), run, SimpleNamespace(fingerprint="f"))
    assert sealed["source"] == run.store.fetch(run.variant(variant))
    on_gpu = "@" in chosen
    assert sealed["measurements"]["target"] == ("cuda" if on_gpu else "cpu")
    assert sealed["made_from"]["machine"] == {"cpu": "g" if on_gpu else "c"}
    assert text.startswith(f"{chosen}: ")
