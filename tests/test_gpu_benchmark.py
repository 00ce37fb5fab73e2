"""`benchmarks/gpu.py`: rows come one by one, none stops the others, the budget holds, the table is last."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import gpu
import gpu_rows
import pytest

from distiltune.cluster.session import mps
from distiltune.search.trial.packing import fraction_of
from distiltune.training.distillation.compiled import CompiledModel

ROOT = Path(__file__).parents[1]
# A worker whose rows do what their names say.
WORKER = """
import json, os, sys, time
asked = json.loads(sys.argv[sys.argv.index("--worker") + 1])
def write(line):
    print(json.dumps(line), flush=True)
if "asleep" in asked["rows"]:
    time.sleep(60)
for name in asked["rows"]:
    write({"begun": name})
    if name == "hangs":
        time.sleep(60)
    if name == "crashes":
        os._exit(3)
    write({"error": "ValueError: no"} if name == "fails" else {"value": len(asked["known"]) + 1.5, "more": name})
"""


@pytest.fixture
def worker(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    return [sys.executable, "-S", str(script)]


def row(name, process="one", seconds=10.0):
    return {"name": name, "unit": "u", "seconds": seconds, "process": process}


def measured(worker, rows, budget_s=60.0):
    kept = []
    began = time.monotonic()
    gpu.measure(rows, worker, budget_s, kept.append)
    return {each["row"]: each for each in kept}, time.monotonic() - began


def test_rows_of_a_process_are_measured_in_one_and_told_one_by_one(worker):
    found, _ = measured(worker, [row("a"), row("b"), row("c", "two")])
    assert list(found) == ["a", "b", "c"]
    assert [found[name]["value"] for name in "abc"] == [1.5, 1.5, 3.5]  # the second process knows two values
    assert found["a"]["unit"] == "u"
    assert found["b"]["more"] == "b"
    assert all(each["seconds"] >= 0 for each in found.values())


def test_a_row_that_fails_is_a_row_and_the_rest_goes_on(worker):
    found, _ = measured(worker, [row("a"), row("fails"), row("b")])
    assert list(found) == ["a", "fails", "b"]
    assert found["fails"]["error"] == "ValueError: no"
    assert found["b"]["value"] == 1.5


def test_after_a_crash_the_rest_has_a_new_process(worker):
    found, _ = measured(worker, [row("a"), row("crashes"), row("b")])
    assert list(found) == ["a", "crashes", "b"]
    assert found["crashes"]["error"] == "its process ended with status 3"
    assert found["b"]["value"] == 2.5  # it knows a


def test_a_row_that_hangs_is_ended_after_its_time(worker):
    found, seconds = measured(worker, [row("hangs", seconds=0.3), row("b")])
    assert found["hangs"]["error"] == "took over 0.3 s"
    assert found["b"]["value"] == 1.5
    assert seconds < 20


def test_a_process_that_never_begins_is_ended(worker, monkeypatch):
    monkeypatch.setattr(gpu, "START_S", 1.5)
    found, _ = measured(worker, [row("asleep"), row("b", "two")])
    assert list(found) == ["asleep", "b"]
    assert found["asleep"]["error"] == "took over 1.5 s"
    assert found["b"]["value"] == 1.5


def test_the_budget_ends_what_runs_and_names_what_it_leaves_out(worker, monkeypatch):
    monkeypatch.setattr(gpu, "_LEAST_S", 0.1)
    found, seconds = measured(worker, [row("hangs", seconds=30.0), row("b"), row("c", "two")], budget_s=3.0)
    assert found["hangs"]["error"] == "the budget ended"
    assert found["b"]["skipped"] == found["c"]["skipped"] == "the budget of 3 s leaves no time"
    assert seconds < 20


LEADER = """
import os, signal, subprocess, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
child = "import signal, sys, time; from pathlib import Path; folder = Path(sys.argv[1])"
child += "; signal.signal(signal.SIGTERM, lambda *_: (folder / 'asked').touch()); (folder / 'begun').touch()"
child = subprocess.Popen([sys.executable, "-S", "-c", child + "; time.sleep(60)", str(folder)])
def end(*_):
    time.sleep(0.2)
    (folder / "pid").write_text(str(child.pid))
    os._exit(4)
signal.signal(signal.SIGTERM, end)
while not (folder / "begun").exists():
    time.sleep(0.01)
print("{}", flush=True)
time.sleep(60)
"""


def test_a_process_ends_what_it_started_itself_and_the_rest_is_killed(tmp_path):
    """Ray must not be ended before the process that uses it, which would complain."""
    worker = gpu.Worker([sys.executable, "-S", "-c", LEADER, str(tmp_path)], [], {})
    assert worker.next_line(20) == {}
    assert worker.end() == 4
    assert not (tmp_path / "asked").exists()
    child = Path("/proc") / (tmp_path / "pid").read_text() / "cmdline"
    ended = time.monotonic() + 10
    while child.exists() and child.read_bytes():  # not a zombie either
        assert time.monotonic() < ended
        time.sleep(0.01)


def test_the_table_is_one_line_a_row_with_what_went_wrong():
    text = gpu.table(
        [
            {"row": "a", "unit": "u", "value": 12345.6, "seconds": 1.0, "peak_mib": 7, "texts_s": {"1": 2}},
            {"row": "b", "unit": "u", "error": "x" * 300 + "|"},
            {"row": "c", "unit": "u", "skipped": "no time"},
        ],
        "2026-01-01, commit abc",
    )
    heading, _, *lines = text.splitlines()
    assert heading == "2026-01-01, commit abc"
    assert lines[2] == "| a | 12,345.6 | u | peak_mib 7, texts_s (1: 2) |"
    assert lines[3].startswith("| b | - | u | xxx")
    assert len(lines[3]) < 130
    assert lines[4] == "| c | - | u | no time |"
    assert {line.count("|") for line in lines} == {5}


def test_the_best_of_a_kind_is_compared_with_its_first():
    def known(**values):
        return [
            {"row": name.replace("_", " "), "unit": "u", "value": value} for name, value in values.items()
        ]

    rows = known(
        **{"1 trials sharing a GPU": 100.0, "8 trials sharing a GPU": 900.0, "4 trials sharing a GPU": 300.0}
    )
    rows += [
        {"row": "step: tf32", "unit": "u", "error": "no"},
        *known(**{"step: 32 bits, random order": 50.0}),
    ]
    # Others do less work a trial or more a step, so they are not compared.
    rows += known(
        **{"8 trials sharing a GPU, checkpoints every 60 s": 2000.0, "step: bf16, batch 256": 900.0}
    )
    packing, step = gpu.compared(rows)
    assert (packing["value"], packing["best"]) == (9.0, "8 trials sharing a GPU")
    assert (step["value"], step["best"]) == (1.0, "step: 32 bits, random order")
    assert gpu.compared(rows[1:3]) == []
    with_mps, _ = gpu.compared([*rows, *known(**{"8 trials sharing a GPU, MPS": 1200.0})])
    assert (with_mps["value"], with_mps["best"]) == (12.0, "8 trials sharing a GPU, MPS")


def test_the_commit_is_that_of_the_checkout_or_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "another"))
    expected = {"unknown"} if not (ROOT / ".git").exists() else set()
    found = gpu.commit_of(ROOT)
    assert found in expected or 7 <= len(found) <= 40
    copy = ROOT / "benchmarks"  # inside of a checkout, without a `.git` of its own
    assert gpu.commit_of(copy) == "unknown"


# --- The rows ----------------------------------------------------------------------------------------------------


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


def test_the_command_measures_the_requested_rows_in_a_worker_of_its_own(tmp_path):
    """The smallest ones; rows of trials, which start Ray, are among the slow tests."""
    rows = ["machine", "step: as it comes"]
    named = [text for name in rows for text in ("--rows", name)]
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--tiny", "--device", "cpu", *named, "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [each["row"] for each in found] == rows
    assert all(each["value"] > 0 for each in found)
    assert done.stdout.endswith(f"{(tmp_path / 'table.md').read_text()}\n")


@pytest.mark.slow
def test_the_command_ends_within_its_budget_with_every_row(tmp_path):
    began = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            "benchmarks/gpu.py",
            "--tiny",
            "--device",
            "cpu",
            "--budget",
            "240",
            "--out",
            str(tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=290,
    )
    assert time.monotonic() - began < 250
    found = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [each["row"] for each in found] == [
        *(each.name for each in gpu_rows.table_of_rows(device="cpu", tiny=True)),
        *(title for title, _, _ in gpu.COMPARED),
    ]
    by_name = {each["row"]: each for each in found}
    failed = {name for name, each in by_name.items() if "value" not in each}
    assert failed <= {"step: tf32", "step: compiled"}
    table = (tmp_path / "table.md").read_text()
    assert done.stdout.endswith(f"{table}\n")
    assert "1 trials at once | " in table


@pytest.mark.slow
def test_a_command_that_is_terminated_ends_its_ray_without_a_word_and_shows_its_table(tmp_path):
    rows = ["--tiny", "--device", "cpu", "--budget", "240", "--rows", "trials"]
    with subprocess.Popen(
        [sys.executable, "benchmarks/gpu.py", *rows, "--out", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdout is not None and command.stderr is not None
        first = command.stdout.readline()  # the next row shares its Ray
        time.sleep(1.0)
        command.terminate()
        output, complaints = command.communicate(timeout=60)
    assert json.loads(first)["value"] > 0
    assert command.returncode == 0
    assert complaints == ""
    assert "| row | value |" in output and (tmp_path / "table.md").exists()
