"""`benchmarks/gpu.py`: rows come one by one, none stops the others, the budget holds, the table is last."""

import json
import subprocess
import sys
import time
from pathlib import Path

import gpu
import gpu_rows
import pytest

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
