"""Runs with damaged records: each is shown as damaged, on one line, among the other runs."""

import json
import logging
import os
from copy import deepcopy

import pytest
from runfiles import Writer

from distiltune.cluster.cli import main
from distiltune.cluster.store.runs import STAGES, Storage
from distiltune.errors import DamagedRecordError, InputError
from distiltune.export.benchmark.measure_models import Measurement

LATER = "2026-03-01T10:00:00+00:00"


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path / "store"), retry_s=0)


@pytest.fixture
def call(storage, capsys, monkeypatch):
    """The command line with that storage: exit status, stdout, stderr."""
    logger = logging.getLogger("distiltune")
    level, handlers = logger.level, logger.handlers

    def call(*arguments):
        status = main([*arguments, "--storage", storage.store.url])
        return status, *capsys.readouterr()

    yield call
    logger.handlers = handlers
    logger.setLevel(level)


RUN = {"run_id": "a", "name": "job", "created": LATER, "state": "finished", "error": None, "ended": LATER}
LEASE = {"owner": "o", "host": "h", "machine": "m", "pid": 1, "process_started": 0.0, "beats": 1, "at": 1.0}
STAGE = {"stage": "data", "state": "running", "started": LATER}
SEARCH = {**STAGE, "state": "finished", "text": "", "result": Writer.result("search")}
GATE = {**STAGE, "state": "finished", "text": "", "result": Writer.result("gate")}
PROGRESS = {"text": "1 of 4", "at": 1.0, "num_trials": 4, "done": 1}


def _with(record, path, value):
    record = deepcopy(record)
    *parents, last = path.split(".")
    place = record
    for name in parents:
        place = place[int(name) if isinstance(place, list) else name]
    if value is ...:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return record


DAMAGED = [
    ("run.json", {"state": 5, "created": None}),
    *[
        ("run.json", _with(RUN, *each))
        for each in (
            ("state", ...),
            ("state", 5),
            ("state", "unheard of"),
            ("state", None),
            ("created", ...),
            ("created", 12),
            ("created", "yesterday"),
            ("created", "0001-01-01"),
            ("created", "9999-12-31T23:59:59-12:00"),
            ("created", ""),
            ("error", ["x"]),
            ("ended", "then"),
            ("name", 5),
        )
    ],
    *[
        ("stages/search.json", _with(SEARCH, *each))
        for each in (
            ("state", ...),
            ("state", "done"),
            ("started", ...),
            ("started", 1.5),
            ("started", "x"),
            ("seconds", "long"),
            ("seconds", -1),
            ("text", None),
            ("result", ...),
            ("result", []),
            ("result", {}),
            ("result.best", None),
            ("result.best.validation_accuracy", "high"),
            ("result.best.value", "high"),
            ("result.best.metric", None),
            ("result.best.trial_id", 7),
            ("result.trials", {}),
            ("result.trials.0.state", "well"),
            ("result.trials.1.reason", None),
            ("result.trials.0.number", "7"),
            ("result.trials.0.parameters", []),
            ("result.best.alpha", ...),
        )
    ],
    *[
        ("stages/gate.json", _with(GATE, *each))
        for each in (
            ("result.variants", {}),
            ("result.variants.0", 5),
            ("result.variants.0.latency_ms", {}),
            ("result.variants.0.size_mb", 0),
            ("result.variants.0.name", ...),
            ("result.chosen", "another"),
            ("result.chosen", 1),
        )
    ],
    *[
        ("stages/search.progress.json", _with(PROGRESS, *each))
        for each in (
            ("at", "now"),
            ("done", 1.5),
            ("num_trials", "many"),
            ("text", ...),
            ("best_value", 0.5),
        )
    ],
]


@pytest.mark.parametrize(("name", "record"), DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_run_shows_as_damaged_beside_the_others(storage, call, name, record):
    run = Writer(storage, "bad", LATER).finished().run
    Writer(storage, "good", "2026-01-01T10:00:00+00:00").finished()
    run.write(name, record)
    status, out, _ = call("runs", "--json")
    rows = {row["run_id"]: row for row in json.loads(out)}
    assert status == 0
    assert {name: row["state"] for name, row in rows.items()} == {"good": "finished", "bad": "damaged"}
    assert name in rows["bad"]["error"]
    status, out, err = call("show", "latest", "--json")
    assert (status, json.loads(out)["run_id"]) == (0, "good")
    assert name in err
    assert err.count("\n") == 1
    for command in (["show", "bad"], ["status", "bad", "--json"], ["status", "bad", "--watch"]):
        status, out, err = call(*command)
        if name.endswith("progress.json"):  # needed only while its stage runs
            continue
        if name == "stages/gate.json" and command[0] == "status" and status == 0:
            pytest.fail("status reads every stage")
        assert status == 1, command
        assert name in err
        assert err.count("\n") == 1
        assert len(err) < 500
        assert "delete" not in err


@pytest.mark.parametrize(
    "content", [b"[]", b"", b'{"a":' * 50_000, b'{"a": NaN}'], ids=["list", "empty", "deep", "nan"]
)
@pytest.mark.parametrize(
    "name", ["run.json", "submission.json", "stages/search.json", "job.json", "lease.json"]
)
def test_a_record_that_is_not_an_object_is_one_line_and_stays_unchanged(storage, call, name, content):
    writer = Writer(storage, "bad", LATER).searching()
    writer.run.store.write(writer.run.key(name), content)
    readers = {
        "job.json": ["resume"],
        "stages/search.json": ["show", "status"],
    }
    if name == "job.json":  # a run that looks alive is not resumed
        writer.run.store.delete(writer.run.key("lease.json"))
    for command in readers.get(name, ["resume", "show", "status"]):
        status, _, err = call(command, "bad")
        assert status == 1, (command, err)
        assert err.count("\n") == 1
        assert name in err
    for command in ("logs", "report"):
        status, _, err = call(command, "bad")
        assert status in (0, 1, 2)
        assert err.count("\n") == 1
    assert writer.run.store.read(writer.run.key(name)) == content


def test_a_damaged_specification_is_named(storage):
    run = Writer(storage, "bad", LATER).state("failed", "x").run
    run.write("job.json", {"data": 5})
    with pytest.raises(DamagedRecordError, match=r"bad/job\.json: is damaged \(data"):
        run.specification()


def test_a_run_whose_record_is_lost_is_damaged_and_not_unknown(storage, call):
    run = Writer(storage, "bad", LATER).finished().run
    run.store.delete(run.key("run.json"))
    assert [row["state"] for row in json.loads(call("runs", "--json")[1])] == ["damaged"]
    status, _, err = call("status", "bad")
    assert status == 1
    assert "run.json" in err
    assert "--run-id bad" in err


def test_a_damaged_lease_is_respected(storage):
    run = Writer(storage, "a").searching().run
    run.store.write(run.key("lease.json"), b"")
    with pytest.raises(DamagedRecordError, match=r"lease\.json.*no process"), run.held():
        pass
    for name, value in (("pid", 2**40), ("pid", "1"), ("at", "now"), ("beats", None), ("owner", 5)):
        run.write("lease.json", {**LEASE, name: value})
        with pytest.raises(DamagedRecordError, match=rf"lease\.json.*{name}"):
            _ = run.state


def test_folders_that_are_not_runs_hide_no_run(storage, call):
    Writer(storage, "good").finished()
    runs = storage.store.directory / "runs"
    (runs / "file").write_text("x")
    (runs / "empty").mkdir()
    (runs / "with space").mkdir()
    (runs / "new\nline").mkdir()
    (runs / os.fsdecode(b"\xff")).mkdir()
    (runs / "nowhere").symlink_to("/nowhere")
    (runs / "loop").symlink_to("loop")
    os.mkfifo(runs / "pipe")
    (runs / "folder").mkdir()
    (runs / "folder" / "run.json").mkdir()
    rows = json.loads(call("runs", "--json")[1])
    assert {row["run_id"]: row["state"] for row in rows} == {"good": "finished", "folder": "damaged"}
    assert call("show", "latest")[0] == 0
    table = call("runs")[1]
    assert "folder" in table
    assert "good" in table


STAGE_NAMES = [
    "a/../..",
    "export/../../x",
    "../x",
    "/etc",
    "export/",
    "export/a\0b",
    "export/" + "x" * 5000,
    "",
    "log",
]


@pytest.mark.parametrize("name", STAGE_NAMES)
def test_a_log_outside_of_the_run_is_refused(storage, call, name):
    run = Writer(storage).finished().run
    run.store.write("runs/x/000000.log", b"another run\n")
    run.store.write(f"{run.stage_log('export', 'onnx')}/000000.log", b"of a part\n")
    for option in ("--stage", "--trial"):
        status, out, err = call("logs", "a", option, name)
        assert (status, out) == (2, "")
        assert err.startswith(f"error: {option}: ")
        assert len(err) < 300
    status, out, err = call("logs", name)
    assert (status, out) == (2, "")
    assert len(err) < 300
    assert call("logs", "a", "--stage", "export/onnx")[:2] == (0, "of a part\n")
    run.store.write(f"{run.stage_log('export')}/000000.log", b"of the stage\n")
    assert call("logs", "a", "--stage", "export")[:2] == (0, "of the stage\n")
    assert call("logs", "a", "--stage", "export/onnx")[:2] == (0, "of a part\n")


def test_a_trial_of_very_many_digits_is_unknown(storage, call):
    Writer(storage).finished()
    assert call("logs", "a", "--trial", "9" * 5000)[0] == 2


def test_what_a_row_must_have_is_what_a_measurement_has(storage):
    """Both descriptions of a row agree: a measured one is read, and what is read becomes a measurement."""
    variants = Writer.result("gate")["variants"]
    run = Writer(storage).finished().run
    rows = [Measurement.from_json(row).to_json() for row in variants]
    run.write("stages/gate.json", _with(GATE, "result.variants", rows))
    assert run.stage_record("gate")["result"]["variants"] == rows
    assert set(STAGES) > {"gate"}


def test_a_request_to_stop_needs_no_content(storage):
    run = Writer(storage).searching().run
    run.store.write(run.key("stop.json"), b"")
    assert run.is_to_stop


@pytest.mark.parametrize("run_id", ["..", "a/../b", "/etc", "a\0", "x" * 200])
def test_a_run_id_never_leads_out_of_the_storage(storage, run_id):
    with pytest.raises(InputError, match="no run"):
        storage.open(run_id)
