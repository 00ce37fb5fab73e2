"""The run store: ids, states, locks, and what is said when something is not there."""

import multiprocessing
import os
import stat
import subprocess
import sys

import pytest

from distiltune.cluster.runs import Run, Storage
from distiltune.errors import ConfigError, InputError, RunNotFoundError


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path / "store"))


def begin(storage, run_id, created, state="running"):
    run = storage.create(run_id)
    run.write("job.json", {})
    run.write("run.json", {"state": state, "created": created})
    return run


def test_runs_are_listed_newest_first_and_latest_is_the_first(storage):
    begin(storage, "older", "2026-01-01", "finished")
    newer = begin(storage, "newer", "2026-01-02", "failed")
    assert [run.id for run in storage.list()] == ["newer", "older"]
    assert storage.open("latest") == newer


def test_a_run_nobody_holds_is_interrupted(storage):
    run = begin(storage, "a", "2026-01-01")
    with run.held():
        assert Run(storage, "a").state == "running"
    assert run.state == "interrupted"


def test_a_killed_process_lets_go_of_its_run(storage):
    run = begin(storage, "a", "2026-01-01")
    code = (
        "import sys, time\nfrom distiltune.cluster.runs import Storage\n"
        f"with Storage({str(storage.root)!r}).open('a').held():\n"
        "    print('held', flush=True)\n    time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "held"
    assert run.state == "running"
    with pytest.raises(InputError, match="another process"), run.held():
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    assert run.state == "interrupted"


def test_an_unknown_run_lists_those_there_are(storage):
    begin(storage, "known", "2026-01-01")
    with pytest.raises(RunNotFoundError, match=r"unknown.*known.*distiltune runs"):
        storage.open("unknown")
    with pytest.raises(RunNotFoundError, match="none"):
        Storage(str(storage.root / "empty")).open("latest")


@pytest.mark.parametrize("run_id", ["", "..", "a/b", "latest", "x" * 81, "-a", "a b"])
def test_an_id_that_cannot_name_a_directory_is_refused(storage, run_id):
    with pytest.raises(InputError, match="--run-id"):
        storage.name_run("job", run_id)


def test_remote_storage_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"s3://bucket/x.*local or mounted"):
        Storage("s3://bucket/x")


def test_a_storage_path_that_is_a_file_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match=r"storage\.path.*cannot be written"):
        Storage(str(file)).create("a")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission_is_refused(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(ConfigError, match="cannot be written"):
        Storage(str(tmp_path / "store")).create("a")


def _write_many(path, value):
    run = Storage(path).create("a")
    for _ in range(200):
        run.write("record.json", {"value": [value] * 500})


def test_no_reader_sees_half_a_record(storage):
    run = begin(storage, "a", "2026-01-01")
    run.write("record.json", {"value": [0] * 500})
    writers = [
        multiprocessing.get_context("spawn").Process(target=_write_many, args=(str(storage.root), value))
        for value in (1, 2)
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        record = run.read("record.json")
        assert record is not None
        assert len(set(record["value"])) == 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert not [path for path in run.dir.iterdir() if path.name.startswith(".record")]
