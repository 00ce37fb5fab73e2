"""The rows of `benchmarks/gpu.py`: their order, what each measures, and when one is an error."""

import time
from contextlib import contextmanager
from types import SimpleNamespace

import gpu_rows
import pytest

from distiltune.cluster.session import mps
from distiltune.search.trial.packing import fraction_of
from distiltune.training.distillation.compiled import CompiledModel


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_rows_are_named_once_and_the_first_are_worth_most(device):
    rows = gpu_rows.table_of_rows(device=device, tiny=False)
    names = [each.name for each in rows]
    assert len(set(names)) == len(names)
    assert names[:2] == ["machine", f"step: {next(iter(gpu_rows.STEPS))}"]
    assert set(gpu_rows.PACKED) == {1, 2, 4, 8, 16, 32}
    assert {"bf16": True} not in gpu_rows.STEPS.values(), "the default on a GPU"
    assert [name for name in names if "compile" in name] == ["step: compiled"]
    assert names.index("step: compiled") > names.index("fine-tuning")
    assert any("MPS" in name for name in names) == (device == "cuda")
    assert all(each.seconds <= 200 for each in rows)
    # One of every kind comes before the rest of each kind, within 420 s even if every row takes half its limit.
    kinds = ("machine", "step", "trials", "labelling", "fine-tuning", "latency")
    first = {kind: next(number for number, name in enumerate(names) if kind in name) for kind in kinds}
    whole = rows[: max(first.values()) + 1]
    assert sum(each.seconds for each in whole) / 2 + len({each.process for each in whole}) * 20 < 420
    assert not any("compile" in each.name for each in whole)
    if device == "cuda":
        eight = names.index("8 trials sharing a GPU")
        assert names[eight + 1] == "8 trials sharing a GPU, MPS"
    assert any(name.endswith("checkpoints every 60 s") for name in names)
    started = {each.process for each in rows if each.prepare is gpu_rows.Bench.start_ray}
    assert started == {each.process for each in rows if each.unit == "trials/hour"}


@pytest.mark.parametrize(
    ("ended", "num_packed", "rate"),
    [
        ([10.0, 14.0], 1, 1 / 4),  # the first round has the start of its workers
        ([10.0, 11.0, 15.0, 16.0], 2, 2 / 5),
        ([16.0, 11.0, 15.0, 10.0], 2, 2 / 5),
        ([10.0, 11.0], 2, 2 / 20),  # no second round
        ([10.0], 1, 1 / 20),
    ],
)
def test_trials_are_counted_after_the_first_round(ended, num_packed, rate):
    assert gpu_rows.trials_per_s(ended, num_packed, wall_s=20.0) == pytest.approx(rate)


def test_a_row_says_how_many_trials_shared_a_gpu_and_how_good_the_probe_was():
    memory = {"peak": 1000 * 2**20, "free": 2**37, "total": 2**37, "estimated": 1}
    fitting = {"gpus": 1 / 8, "memory_share": 0.1, "memory": [memory, {**memory, "peak": 1}]}
    assert gpu_rows.shared_by(fitting, 8, 7200.0) == {
        "packing": 8,
        "peak_mib_a_trial": 900,
        "probe_mib_a_trial": 1000,
        "probe_by_peak": 1.111,
    }
    lowered = gpu_rows.shared_by({**fitting, "gpus": fraction_of(7)}, 32, 7200.0)
    assert (lowered["packing"], lowered["peak_mib_a_trial"]) == (7, 1029)
    assert gpu_rows.shared_by(None, 1, 900.0) == {"packing": 1, "peak_mib_a_trial": 900}
    assert gpu_rows.shared_by(None, 2, None) == {"packing": 2}


def event(name, microseconds, device="DeviceType.CUDA", **more):
    return SimpleNamespace(
        name=name,
        device_type=device,
        time_range=SimpleNamespace(elapsed_us=lambda: microseconds),
        **more,
    )


def test_kernels_and_copies_are_counted_apart_from_marks_and_the_host():
    steps = gpu_rows.PROFILED_STEPS
    events = [
        *[event("gemm", 50.0)] * (3 * steps),
        *[event("Memcpy HtoD (Pageable -> Device)", 10.0)] * steps,
        event("Memset (Device)", 20.0),
        event("Optimizer.step#AdamW.step", 10**6),
        event("a mark", 10**6, is_user_annotation=True),
        event("aten::mm", 10**6, device="DeviceType.CPU"),
    ]
    found = gpu_rows.per_step(events)
    assert found == {"kernels_a_step": 3.0, "copies_a_step": 1.0, "gpu_ms_a_step": 0.162}
    assert gpu_rows.shares_of_step(lambda: found, ms_a_step=0.648) == {**found, "host_share": 0.75}


@pytest.mark.parametrize("events", [[], [event("aten::mm", 10**6, device="DeviceType.CPU")]])
def test_a_profile_without_kernels_is_a_reason_and_no_share(events):
    found = gpu_rows.shares_of_step(lambda: gpu_rows.per_step(events), ms_a_step=1.0)
    assert found == {"profile": "LookupError: the profiler recorded nothing on the GPU"}


def test_memory_is_settled_once_it_falls_no_more():
    falling = iter([9, 9, 7, 5, 3])
    assert gpu_rows.settled(lambda: next(falling, 3), still_s=0.1) == 3
    assert gpu_rows.settled(lambda: 3, seconds=0.0) == 3


def test_a_peak_is_not_measured_while_the_row_before_holds_memory(monkeypatch):
    used = iter([2**30, 2**29])
    assert gpu_rows.is_idle(lambda: next(used, 5), idle=5)
    assert not gpu_rows.is_idle(lambda: 2**30, idle=5, seconds=0.0)
    made = gpu_rows.Bench("cuda", tiny=True)
    made.idle_bytes = 5
    monkeypatch.setattr(gpu_rows, "used_bytes", lambda: 5)
    with gpu_rows.memory_peak(made) as peak:
        monkeypatch.setattr(gpu_rows, "used_bytes", lambda: 5 + 3 * 2**20)
        until = time.monotonic() + 5
        while not peak()["peak_mib"] and time.monotonic() < until:
            time.sleep(0.05)
    assert peak() == {"peak_mib": 3}
    monkeypatch.setattr(gpu_rows, "is_idle", lambda *_: False)
    with gpu_rows.memory_peak(made) as peak:
        assert "peak_mib" not in peak() and peak()["peak"]


@pytest.fixture(scope="module")
def bench():
    made = gpu_rows.Bench("cpu", tiny=True)
    with made.ended:
        yield made


def test_the_ceilings_of_a_machine_are_measured(bench):
    found = gpu_rows.machine(bench)
    assert found["value"] == max(found["matmul_tflops"].values()) > 0
    assert found["copy_gb_s"] > 0
    assert found["torch"]


def test_a_step_is_measured_and_one_of_another_version_says_so(bench):
    found = gpu_rows.step(bench, {"bf16": False})
    assert found["value"] > 0
    assert found["precision"] == "fp32"
    assert found["value"] == pytest.approx(1000 * found["batch_size"] / found["ms_a_step"], rel=0.01)
    with pytest.raises(LookupError, match="not in this version: flying_carpet"):
        gpu_rows.step(bench, {"flying_carpet": True})


def test_a_step_is_that_of_a_trial(bench, tmp_path):
    """Of the embedding table only the rows of the texts are trained, and the last layer reads the first token."""
    trainer = gpu_rows.trial_trainer(bench, {"per_device_train_batch_size": 4}, tmp_path)
    assert type(trainer).__name__ == "ReportedTrainer"
    assert trainer.args.per_device_train_batch_size == 4
    trained = trainer.model.get_input_embeddings().weight
    assert len(trained) == 100 < trainer.model.config.vocab_size


def test_a_step_that_was_not_compiled_is_an_error(bench, monkeypatch):
    def refuse(*_, **__):
        def call(**_):
            raise RuntimeError("no C++ compiler")

        return call

    monkeypatch.setattr(CompiledModel.__init__, "__defaults__", (True, refuse))
    with pytest.raises(RuntimeError, match=r"was not compiled: RuntimeError: no C\+\+ compiler"):
        gpu_rows.step(bench, {"compile_step": True})


def test_a_service_that_does_not_start_is_an_error_and_no_measurement(monkeypatch):
    @contextmanager
    def none_started(*, wanted):
        yield {}

    made = gpu_rows.Bench("cuda", tiny=True)
    monkeypatch.setattr(gpu_rows.shutil, "which", lambda _: "/usr/bin/there")
    monkeypatch.setattr(gpu_rows.Bench, "start_ray", lambda _: None)
    monkeypatch.setattr(mps, "mps_daemons", none_started)
    with pytest.raises(RuntimeError, match="nvidia-cuda-mps-control did not start"):
        gpu_rows.with_mps(made, 8)


def test_labelling_and_fine_tuning_are_measured(bench):
    assert gpu_rows.labelling(bench, "float32")["value"] > 0
    assert gpu_rows.fine_tuning(bench)["value"] > 0


def test_a_runtime_that_is_not_here_is_no_latency(bench):
    with pytest.raises(LookupError, match="CUDAExecutionProvider is not in this ONNX Runtime"):
        gpu_rows.latency(bench, "cuda")
    with pytest.raises(LookupError, match="is not on this machine"):
        gpu_rows.with_mps(bench, 8)
