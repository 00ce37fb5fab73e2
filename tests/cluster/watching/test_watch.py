"""Watching a run from its store alone, in a directory and on S3: status, follow, logs, runs, show, report."""

import io
import json
import logging
import os
import pty
import signal
import subprocess
import threading
import time

import pytest
from commands import command_line
from rich.console import Console
from runfiles import BEST, PARAMETERS, SEARCH, Writer, meanwhile
from servers import make_bucket, s3_server

from distiltune.cluster.cli import main
from distiltune.cluster.store import lease as leases
from distiltune.cluster.store.runs import STAGES, Run, Storage
from distiltune.cluster.watching import follow as following
from distiltune.cluster.watching import logs
from distiltune.cluster.watching.logs import follow_log
from distiltune.cluster.watching.show import print_runs, print_summary, run_rows
from distiltune.cluster.watching.status import StatusReader, watch
from distiltune.cluster.watching.status_view import render
from distiltune.storage.logs import LogWriter
from distiltune.storage.store import Store

S3_IS_SLOW = pytest.mark.parametrize(
    "storage", ["directory", pytest.param("s3", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture(params=["directory", "s3"])
def storage(request, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILTUNE_CACHE", str(tmp_path / "cache"))
    url = str(tmp_path / "store") if request.param == "directory" else request.getfixturevalue("s3_url")
    return Storage(url, retry_s=2)


@pytest.fixture
def directory(tmp_path):
    return Storage(str(tmp_path / "store"), retry_s=0)


@pytest.fixture
def call(storage, capsys, monkeypatch):
    """The command line with that storage: exit status, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "100")
    logger = logging.getLogger("distiltune")
    level, handlers = logger.level, logger.handlers

    def call(*arguments):
        status = main([*arguments, "--storage", storage.store.url])
        return status, *capsys.readouterr()

    yield call
    logger.handlers = handlers
    logger.setLevel(level)


def drawn(found, width=80):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(render(found))
    return console.file.getvalue()


def test_status_of_a_search_shows_stages_trials_best_and_the_next_command(storage, call):
    writer = Writer(storage).searching()
    status, out, err = call("status", "a", "--json")
    found = json.loads(out)
    assert (status, err) == (0, "")
    assert (found["run_id"], found["state"], found["stage"]) == ("a", "running", "search")
    assert found["created"] == writer.created
    assert found["trials"] == {"num_trials": 4, "done": 1, "running": 2, "failed": 1, "pruned": 0}
    assert found["best"] == {"trial_id": "0007", "value": 0.91234, "parameters": PARAMETERS}
    stages = {stage["name"]: stage for stage in found["stages"]}
    assert list(stages) == list(STAGES)
    assert [stages[name]["state"] for name in ("student", "search", "export")] == [
        "finished",
        "running",
        "waiting",
    ]
    assert 0 <= stages["search"]["seconds"] < 60
    status, out, err = call("status", "latest")
    assert (status, err) == (0, "")
    for part in ("1 of 4 trials done", "0.9123", "alpha 0.25", "status a --watch", "text of student"):
        assert part in out


def test_what_is_waited_for_is_named(storage):
    writer = Writer(storage).submitted()
    found = StatusReader(writer.run).read()
    assert (found["state"], found["waiting_for"]) == ("submitted", "the cluster to start its job")
    writer.submitted(pending=False).searching()
    writer.progress("search", "waiting", num_trials=4, waiting_for="1 CPU and 1 GPU for a trial")
    found = StatusReader(writer.run).read()
    assert found["waiting_for"] == "1 CPU and 1 GPU for a trial"
    assert "waiting for  1 CPU and 1 GPU for a trial" in drawn(found)


@pytest.mark.parametrize(
    ("state", "command"),
    [("finished", "pull"), ("failed", "logs"), ("stopped", "resume"), ("interrupted", "resume")],
)
def test_an_ended_run_shows_the_next_command(directory, state, command):
    writer = Writer(directory).until("search").stage("search", "stopped").state(state, "the reason")
    found = StatusReader(writer.run).read()
    assert (found["state"], found["error"]) == (state, "the reason")
    assert f" {command} a" in found["next"]
    assert f"--storage {directory.store}" in found["next"]
    assert found["ended"] is not None
    assert "the reason" in drawn(found)


def test_a_run_whose_driver_died_is_interrupted_since_its_last_heartbeat(storage, call, monkeypatch):
    monkeypatch.setattr(leases, "BEAT_S", 0.1)
    writer = Writer(storage).searching()
    writer.beat(at=time.time() - 3600)
    found = json.loads(call("status", "a", "--json")[1])
    assert (found["state"], found["stage"]) == ("interrupted", None)
    assert found["stages"][STAGES.index("search")]["state"] == "interrupted"
    assert found["trials"]["running"] == 0
    assert "resume a" in found["next"]
    assert "last heartbeat" in call("status", "a")[1]
    assert json.loads(call("runs", "--json")[1])[0]["state"] == "interrupted"
    assert call("status", "a", "--watch")[0] == 0


def test_records_of_an_earlier_attempt_are_not_taken_for_this_one(directory):
    writer = Writer(directory).until("search").stage("search", "failed", error="no space left")
    writer.progress("search", "old", **SEARCH, **BEST)
    writer.state("failed", "no space left").submitted()
    submitted = StatusReader(writer.run).read()
    running = StatusReader(writer.submitted(pending=False).state("running").run).read()
    assert (submitted["state"], running["state"]) == ("submitted", "running")
    for found in (submitted, running):
        assert found["error"] is None
        assert found["stages"][STAGES.index("search")]["state"] == "waiting"
        assert (found["trials"]["done"], found["trials"]["running"]) == (1, 0)


class CountingStore(Store):
    num_reads = 0

    def read(self, key, at_most=None):
        self.num_reads += 1
        return super().read(key, at_most)


def test_a_look_at_a_running_run_takes_few_requests(directory):
    writer = Writer(directory).searching()
    store = CountingStore(directory.store.url)
    reader = StatusReader(Run(store, "a"))
    reader.read()
    store.num_reads = 0
    first = reader.read()
    assert store.num_reads <= 6
    writer.stage("search", "finished", result=writer.result("search")).stage("export", "running")
    writer.progress("search", "4 of 4", num_trials=4, done=4)
    assert reader.read()["trials"]["done"] == 4
    store.num_reads = 0
    assert reader.read()["best"] == first["best"]
    assert store.num_reads <= 6


@S3_IS_SLOW
def test_status_watch_continues_until_the_run_ends(storage, call):
    writer = Writer(storage).state("running").stage("data", "running")

    def work():
        time.sleep(1.2)
        writer.searching()
        time.sleep(1.2)
        writer.state("failed", "every trial failed")

    with meanwhile(work):
        status, out, err = call("status", "a", "--watch")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[:2] == ["running; data", "running; search 1 of 4 trials done, 2 running"]
    assert lines[-1].startswith("failed; every trial failed; next: ")
    assert "logs a" in lines[-1]
    assert len(lines) == len(set(lines))


@pytest.mark.slow
def test_status_watch_as_json_is_one_object_a_line(storage, call):
    writer = Writer(storage).searching()

    def work():
        time.sleep(1.2)
        writer.state("stopped")

    with meanwhile(work):
        _, out, _ = call("status", "a", "--watch", "--json")
    states = [json.loads(line)["state"] for line in out.splitlines()]
    assert states[0] == "running"
    assert states[-1] == "stopped"


def on_a_terminal(*arguments, within_s, signal_after=None):
    """Return a command's output on a terminal and its exit status; send Ctrl-C once it shows ``signal_after``."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "40"}
    process = subprocess.Popen(command_line(*arguments), stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown, deadline = b"", time.monotonic() + within_s
    try:
        while time.monotonic() < deadline:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the other end was closed
                break
            if signal_after is not None and signal_after.encode() in shown:
                process.send_signal(signal.SIGINT)
                signal_after = None
        return process.wait(timeout=10), shown.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_ctrl_c_leaves_a_live_status_quietly(directory):
    Writer(directory).searching()
    status, shown = on_a_terminal(
        "status", "a", "--watch", "--storage", directory.store.url, within_s=30, signal_after="0.9123"
    )
    assert status == 0
    assert "Traceback" not in shown
    assert "Aborted" not in shown
    assert shown.rstrip().endswith("\x1b[?25h")  # the cursor is back


@pytest.mark.slow
def test_a_storage_that_goes_away_is_waited_for():
    with s3_server() as endpoint:
        storage = Storage(make_bucket(endpoint, "watched"), retry_s=0.1)
        Writer(storage).searching()
        looks = watch(storage.open("a"), period_s=0.1)
        assert next(looks)["waiting_for"] is None
    found = next(look for look in looks if look["waiting_for"])
    assert (found["state"], found["trials"]["done"]) == ("running", 1)
    assert found["waiting_for"].startswith("its storage to respond")


def followed(run):
    """Return the exit status of `submit --follow`, and what it prints without a terminal."""
    console = Console(file=io.StringIO(), width=120, highlight=False)
    return following.follow(run, console), console.file.getvalue()


@S3_IS_SLOW
def test_follow_shows_a_run_to_its_end(storage, capsys):
    writer = Writer(storage).submitted()

    def work():
        time.sleep(1.2)
        writer.submitted(pending=False).searching()
        time.sleep(1.2)
        writer.finished()

    with meanwhile(work):
        status, shown = followed(writer.run)
    assert status == 0
    lines = shown.splitlines()
    assert lines[0].split(maxsplit=1) == ["job", "waiting for the cluster to start its job"]
    assert [line.split()[1] for line in lines if line.startswith("✓")] == list(STAGES)
    assert "  search     1 of 4 trials done, 2 running" in lines
    out, err = capsys.readouterr()
    assert "student-onnx-int8" in out
    assert err == ""


@pytest.mark.parametrize(
    ("state", "status", "parts"),
    [("failed", 1, ["every trial failed"]), ("stopped", 130, ["resume a"]), ("interrupted", 1, ["resume a"])],
)
def test_follow_of_a_run_that_ends_early(directory, capsys, state, status, parts):
    writer = Writer(directory).until("search").stage("search", "failed" if state == "failed" else "stopped")
    writer.state(state, "every trial failed" if state == "failed" else None)
    returned, shown = followed(writer.run)
    assert returned == status
    assert ("✗" if state == "failed" else "■") + " search" in shown
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    for part in parts:
        assert part in err


@pytest.mark.slow
def test_follow_of_a_resumed_run_shows_each_stage_as_it_ends_this_time(directory, capsys):
    writer = Writer(directory).until("search").stage("search", "failed").state("failed", "no space left")
    writer.submitted()

    def work():
        time.sleep(1.2)
        writer.submitted(pending=False).searching()
        time.sleep(1.2)
        writer.finished()

    with meanwhile(work):
        status, shown = followed(writer.run)
    assert status == 0
    assert "✗" not in shown
    assert shown.count("✓ search") == 1


def test_ctrl_c_leaves_a_followed_run_running(directory, capsys):
    writer = Writer(directory).searching()

    def work():
        time.sleep(0.7)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with meanwhile(work):
        status, _ = followed(writer.run)
    assert status == 130
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "distiltune status a --watch" in err
    assert "status a --watch" in err
    assert writer.run.state == "running"


def log(run, key, text):
    writer = LogWriter(run.store, key)
    writer.write(text)
    writer.close()


def test_logs_of_the_driver_a_trial_and_a_stage(storage, call):
    run = Writer(storage).state("stopped").run
    log(run, run.log, "the driver\n")
    log(run, f"{run.trial_logs}/0007", "the trial, ümläut\n")
    log(run, f"{run.trial_logs}/0077", "another\n")
    log(run, run.stage_log("teacher"), "the teacher\n")
    assert call("logs", "a") == (0, "the driver\n", "")
    for given in ("0007", "7", "07"):
        assert call("logs", "a", "--trial", given) == (0, "the trial, ümläut\n", "")
    assert call("logs", "a", "--stage", "teacher", "-f") == (0, "the teacher\n", "")
    assert json.loads(call("logs", "a", "--json")[1]) == {"run_id": "a", "lines": ["the driver"]}
    log(run, run.log, "the second try\n")
    assert call("logs", "a", "-f") == (0, "the driver\nthe second try\n", "")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--trial", "zz"], ["--trial", "'zz'", "no such trial", "0007, 0077"]),
        (["--trial", "8"], ["--trial", "'8'", "no such trial", "0007, 0077"]),
        (["--stage", "learning"], ["--stage", "'learning'", "teacher, logits"]),
        (["--stage", "search", "--trial", "7"], ["both given"]),
        (["--follow", "--json"], ["both given"]),
    ],
)
def test_a_log_that_cannot_be_shown_is_one_line(storage, call, options, parts):
    run = Writer(storage).state("stopped").run
    for trial in ("0007", "0077"):
        log(run, f"{run.trial_logs}/{trial}", "text\n")
    status, out, err = call("logs", "a", *options)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    for part in parts:
        assert part in err


def test_a_run_without_a_log_is_reported_on_stderr(storage, call):
    Writer(storage).submitted()
    status, out, err = call("logs", "a")
    assert (status, out) == (0, "")
    assert "submitted" in err


@S3_IS_SLOW
def test_a_followed_log_shows_new_text_within_some_seconds_and_ends_with_the_run(storage):
    writer = Writer(storage).state("running")
    run = writer.run
    written_at = {}

    def work():
        for attempt in range(2):  # a second driver continues in a piece of its own
            lines = LogWriter(run.store, run.log)
            for number in range(2):
                text = f"line {attempt}.{number}\n"
                written_at[text] = time.monotonic()
                lines.write(text)
                time.sleep(0.8)
            lines.close()
            writer.beat()
        writer.state("finished")

    received, late = "", []
    with meanwhile(work):
        for text in follow_log(run, run.log):
            received += text
            late += [time.monotonic() - written_at[line] for line in text.splitlines(keepends=True)]
    assert received == "".join(written_at)
    assert max(late) < 4


def test_a_character_that_is_half_written_is_waited_for(directory, monkeypatch):
    """A log reaches the store in pieces of a fixed number of bytes, which may cut a character."""
    monkeypatch.setattr(logs, "_PERIOD_S", 0.1)
    writer = Writer(directory).state("running")
    run, text = writer.run, "zwölf Prüfungen\n".encode()

    def work():
        run.store.write(f"{run.log}/000000.log", text[:3])
        time.sleep(0.3)
        run.store.write(f"{run.log}/000001.log", text[3:9])
        time.sleep(0.3)
        run.store.write(f"{run.log}/000001.log", text[3:])
        writer.state("finished")

    with meanwhile(work):
        assert "".join(follow_log(run, run.log)) == text.decode()


def test_a_list_of_runs_fits_a_terminal_with_every_id_whole(directory, capsys, monkeypatch):
    ids = ["clinc150-offline-20260101-101112-ab12", "quickstart-20260101-101112-ab12"]
    for run_id in ids:
        Writer(directory, run_id).finished()
    monkeypatch.setenv("COLUMNS", "80")
    print_runs(run_rows(directory), str(directory.store))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sorted(line.split()[0] for line in lines[1:]) == ids
    monkeypatch.delenv("COLUMNS")  # a pipe has no width
    print_runs(run_rows(directory), str(directory.store))
    assert "student-onnx-int8" in capsys.readouterr().out


def test_a_printed_command_quotes_its_paths(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    print_summary(Writer(Storage(str(tmp_path / "my runs"), retry_s=0)).finished().run)
    out = capsys.readouterr().out
    assert "predict 'my runs/runs/a/artifact' 'a text'" in out
    assert f"--storage '{tmp_path}/my runs'" in out


def test_runs_lists_every_run_newest_first(storage, call):
    Writer(storage, "first", "2026-01-01T10:00:00+00:00").finished()
    Writer(storage, "second", "2026-01-02T10:00:00+00:00").searching()
    Writer(storage, "third", "2026-01-03T10:00:00+00:00").state("failed", "no data")
    rows = json.loads(call("runs", "--json")[1])
    assert [(row["run_id"], row["state"]) for row in rows] == [
        ("third", "failed"),
        ("second", "running"),
        ("first", "finished"),
    ]
    assert rows[1] == {
        "run_id": "second",
        "state": "running",
        "created": "2026-01-02T10:00:00+00:00",
        "num_trials": 4,
        "trials_done": 1,
        "metric": None,
        "best_value": 0.91234,
        "chosen": None,
        "error": None,
        "size_bytes": sum(storage.store.sizes("runs/second").values()),
    }
    assert rows[2]["chosen"] == "student-onnx-int8"
    _, out, _ = call("runs")
    assert [line.split()[0] for line in out.splitlines()] == ["run", "third", "second", "first"]
    assert "1/4" in out


def test_show_and_report_of_a_finished_run(storage, call):
    run = Writer(storage).finished().run
    found = json.loads(call("show", "a", "--json")[1])
    assert found["artifact"] == storage.store.location("runs/a/artifact")
    assert "?" not in found["artifact"]
    _, out, _ = call("show", "a")
    assert "20.0x faster" in out
    record = run.stage_record("gate")
    ratio = {"faster": 20.81, "low": 20.13, "high": 21.48}
    record["result"] = {**record["result"], "ratios": {"teacher-pytorch": ratio}}
    run.write("stages/gate.json", record)
    assert "20.8x (20.1 to 21.5) faster and 40.0x smaller than teacher-pytorch" in call("show", "a")[1]
    assert json.loads(call("show", "a", "--json")[1])["ratios"] == {"teacher-pytorch": ratio}
    assert "trial 77aa0b02 failed: the loss is [nan]" in out
    assert ("predict " in out) == (run.store.directory is not None)
    assert "pull a --to DIR" in out
    status, out, err = call("report", "a")
    assert (status, out) == (0, "# Report of job\n\n")
    assert err == f"{run.store.local(run.report)}: latency.png, report.md\n"


def test_show_of_a_run_that_is_not_there_yet(storage, call):
    Writer(storage).searching()
    assert "1 of 4 trials done" in call("show", "a")[1]
    assert json.loads(call("show", "a", "--json")[1])["artifact"] is None
    status, out, err = call("report", "a")
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert "running" in err
