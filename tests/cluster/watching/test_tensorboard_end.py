"""The end of a TensorBoard server: nothing is left, however it ends, and leftovers of trials are removed too."""

import json
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from commands import command_line, environment, lives, soon
from runfiles import Writer

from distiltune.cluster.store.runs import Storage
from distiltune.cluster.watching.tensorboard import EventCopy


@pytest.fixture
def storage(s3_url):
    return Storage(s3_url, retry_s=2)


@pytest.fixture
def serving(storage, tmp_path):
    """The command once it serves, and its temporary directory."""
    run = Writer(storage).state("running").run
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        command_line("tensorboard", run.id, "--port", 0, "--storage", run.store.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(tmp_path / "state", TMPDIR=str(temporary)),
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("TensorBoard of run a: http://127.0.0.1:")
    try:
        yield process, temporary
    finally:
        process.terminate()
        process.communicate(timeout=30)


def everything_below(process):
    return psutil.Process(process.pid).children(recursive=True)


def test_when_tensorboard_is_killed_one_line_says_so_and_nothing_is_left(serving):
    process, temporary = serving
    below = everything_below(process)
    server = next(each for each in below if "tensorboard.main" in each.cmdline())
    server.kill()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert re.fullmatch(r"error: .*TensorBoard.* SIGKILL\n", err)
    assert psutil.wait_procs(below, timeout=10)[1] == []
    assert not list(temporary.glob("distiltune-*"))


def test_when_the_command_is_killed_its_server_and_its_copy_go_too(serving):
    process, temporary = serving
    below = everything_below(process)
    assert any("tensorboard.main" in each.cmdline() for each in below)
    assert list(temporary.glob("distiltune-*"))
    process.kill()
    process.wait()
    assert soon(lambda: not any(lives(each.pid) for each in below))
    assert soon(lambda: not list(temporary.glob("distiltune-*")))


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_disturb_the_end(serving):
    process, temporary = serving
    below = everything_below(process)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0
    assert psutil.wait_procs(below, timeout=10)[1] == []
    assert not list(temporary.glob("distiltune-*"))


def test_a_trial_that_the_search_has_deleted_is_removed_from_the_copy(storage, tmp_path):
    """After a kill, some trials run again under other names."""
    copy = EventCopy(storage.store, "events", tmp_path)
    for trial in ("kept", "forgotten"):
        storage.store.write(f"events/{trial}/a", b"points")
    copy.update()
    assert (tmp_path / "forgotten" / "a").is_file()
    storage.store.delete("events/forgotten")
    copy.update()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.slow
def test_fifty_runs_are_listed_in_reasonable_time(storage, tmp_path):

    def write(number):
        Writer(storage, f"run-{number:02}", f"2026-01-01T10:{number:02}:00+00:00").searching()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(50)))
    began = time.monotonic()
    done = subprocess.run(
        command_line("runs", "--json", "--storage", storage.store.url),
        capture_output=True,
        text=True,
        env=environment(tmp_path / "state"),
        check=True,
    )
    assert time.monotonic() - began < 20, time.monotonic() - began
    assert [row["run_id"] for row in json.loads(done.stdout)] == [f"run-{n:02}" for n in range(49, -1, -1)]
