"""The run store: ids, states, heartbeats, and messages about missing runs; in a directory and on S3."""

import datetime
import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest
from runfiles import SUBMISSION

from distiltune.cluster.jobs.driver import mark_ended
from distiltune.cluster.store import lease as leases
from distiltune.cluster.store.lease import Lease
from distiltune.cluster.store.runs import Run, Storage, name_run, now
from distiltune.errors import ConfigError, InputError, RunNotFoundError

S3_IS_SLOW = pytest.mark.parametrize(
    "storage", ["directory", pytest.param("s3", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture(params=["directory", "s3"])
def storage(request, tmp_path):
    url = str(tmp_path / "store") if request.param == "directory" else request.getfixturevalue("s3_url")
    return Storage(url, retry_s=2)


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Shorten the wait for simultaneous writers; tests of these use separate processes, which wait as usual."""
    monkeypatch.setattr(leases, "_SETTLE_S", 0.1)


@pytest.fixture
def quick(monkeypatch):
    """Make heartbeats fast."""
    monkeypatch.setattr(leases, "BEAT_S", 0.1)
    monkeypatch.setattr(leases, "STALE_AFTER_S", 2.0)


def begin(storage, run_id, created, state="running"):
    run = storage.create(run_id)
    run.write("job.json", {})
    run.write("run.json", {"state": state, "created": created})
    return run


def of_another_machine(run, **changes):
    """The run's lease as a process of another machine would hold it."""
    record = {"owner": "other", "host": "far", "machine": "far", "pid": 1, "process_started": 0.0, "beats": 7}
    run.write("lease.json", {**record, "at": time.time(), **changes})


def test_runs_are_listed_newest_first_and_latest_is_the_first(storage):
    begin(storage, "older", "2026-01-01", "finished")
    newer = begin(storage, "newer", "2026-01-02", "failed")
    assert [run.id for run in storage.list()] == ["newer", "older"]
    assert storage.open("latest") == newer


def test_a_run_nobody_holds_is_interrupted(storage):
    run = begin(storage, "a", "2026-01-01")
    with run.held():
        assert Run(run.store, "a").state == "running"
    assert run.state == "interrupted"


def test_a_second_writer_is_refused(storage):
    run = begin(storage, "a", "2026-01-01")
    with (
        run.held(),
        pytest.raises(InputError, match=rf"another process.*pid {os.getpid()}.*status a"),
        run.held(),
    ):
        pass


def hold_elsewhere(storage, run_id="a"):
    """A process that holds a run until it is killed."""
    code = (
        "import time\nfrom distiltune.cluster.store.runs import Storage\n"
        f"with Storage({storage.store.url!r}).open({run_id!r}).held():\n"
        "    print('held', flush=True)\n    time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "held"
    return process


def test_the_run_of_a_killed_process_is_released_at_once(storage):
    run = begin(storage, "a", "2026-01-01")
    process = hold_elsewhere(storage)
    assert run.state == "running"
    with pytest.raises(InputError, match="another process"), run.held():
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    assert run.state == "interrupted"
    with run.held():
        assert run.state == "running"


def test_the_heartbeat_of_another_machine_shows_whether_its_process_lives(storage, quick):
    run = begin(storage, "a", "2026-01-01")
    of_another_machine(run)
    assert run.state == "running"
    with pytest.raises(InputError, match="on far"), run.held():
        pass
    of_another_machine(run, at=time.time() - 60)
    assert run.state == "interrupted"
    with run.held():
        assert run.state == "running"


@S3_IS_SLOW
def test_clocks_that_disagree_take_no_run_from_a_live_process(storage, monkeypatch):
    """An old time in the lease, and a heartbeat all the same: the other machine's clock is wrong."""
    monkeypatch.setattr(leases, "BEAT_S", 0.5)
    run = begin(storage, "a", "2026-01-01")
    of_another_machine(run, at=0)
    beat = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\nfrom distiltune.storage.store import Store\n"
            f"store = Store({storage.store.url!r})\n"
            "record = store.read_json('runs/a/lease.json')\n"
            "for n in range(100):\n"
            "    store.write_json('runs/a/lease.json', {**record, 'beats': 8 + n})\n"
            "    print(n, flush=True)\n    time.sleep(0.1)",
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert beat.stdout is not None
        beat.stdout.readline()
        with pytest.raises(InputError, match="another process"), run.held():
            pass
    finally:
        beat.kill()
        beat.wait()
        beat.stdout.close()


def interrupted(work, within_s=10):
    """Whether the main thread is interrupted while it does ``work``."""
    try:
        work()
        time.sleep(within_s)
    except KeyboardInterrupt:
        return True
    return False


def test_a_request_to_stop_interrupts_the_worker(storage, quick):
    run = begin(storage, "a", "2026-01-01")
    with run.held() as lease:
        assert interrupted(run.request_stop)
        assert lease.interruption == "stop"
        assert run.state == "running"
    run.clear_stop()
    assert not run.is_to_stop


def test_a_process_that_ignores_ctrl_c_is_interrupted_by_a_request_to_stop(storage, quick):
    """Processes that a script starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run = begin(storage, "a", "2026-01-01")
        with run.held():
            assert interrupted(run.request_stop)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_process_that_lost_the_lease_is_interrupted_and_leaves_it_alone(storage, quick):
    run = begin(storage, "a", "2026-01-01")
    lease = Lease(run.store, run.key())
    lease.acquire()
    assert interrupted(lambda: of_another_machine(run))
    assert lease.interruption == "lost"
    lease.release()
    held = run.read("lease.json")
    assert held is not None
    assert held["owner"] == "other"


def test_a_process_that_slept_through_a_whole_takeover_is_interrupted(storage, quick):
    run = begin(storage, "a", "2026-01-01")
    lease = Lease(run.store, run.key())
    lease.acquire()
    assert interrupted(lambda: run.store.delete(run.key("lease.json")))
    assert lease.interruption == "lost"
    lease.release()
    assert run.read("lease.json") is None


def test_a_job_whose_run_is_held_by_another_leaves_that_one_alone(storage):
    run = begin(storage, "a", "2026-01-01", "stopped")
    run.write("submission.json", {**SUBMISSION, "created": now(), "pending": True})
    with run.held():
        assert run.state == "running"  # resumed, whatever its record still says
        run.write("run.json", {"state": "running", "created": "2026-01-01"})
        assert not mark_ended(run, "a", "failed", "the lease is another's")
        assert run.state == "running"
        assert (run.read("run.json") or {})["state"] == "running"


@S3_IS_SLOW
def test_of_two_simultaneous_writers_one_is_refused(storage):
    begin(storage, "a", "2026-01-01")
    code = (
        "import sys, time\nfrom distiltune.cluster.store.runs import Storage\n"
        "from distiltune.errors import InputError\n"
        f"run = Storage({storage.store.url!r}).open('a')\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        "try:\n    with run.held():\n        time.sleep(3)\n        print('held')\n"
        "except InputError:\n    print('refused')"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]
    for each in both:
        each.stdout.readline()
    for each in both:
        each.stdin.write("\n")
        each.stdin.flush()
    assert sorted(each.communicate(timeout=60)[0].strip() for each in both) == ["held", "refused"]


def test_a_submitted_run_is_there_before_it_begins_and_does_not_wait_for_ever(storage):
    run = storage.create("a")
    run.write("submission.json", {**SUBMISSION, "created": now(), "pending": True})
    assert storage.open("latest") == run
    assert run.state == "submitted"
    long_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    run.write("submission.json", {**SUBMISSION, "created": long_ago.isoformat(), "pending": True})
    assert run.state == "interrupted"


def test_an_unknown_run_lists_the_existing_ones(storage):
    begin(storage, "known", "2026-01-01")
    with pytest.raises(RunNotFoundError, match=r"unknown.*known.*distiltune runs"):
        storage.open("unknown")
    with pytest.raises(RunNotFoundError, match="none"):
        Storage(storage.store.url.replace("?", "/empty?") + "/empty" * ("?" not in storage.store.url)).open(
            "a"
        )


@pytest.mark.parametrize("run_id", ["", "..", "a/b", "latest", "x" * 81, "-a", "a b"])
def test_an_id_that_cannot_name_a_directory_is_refused(run_id):
    with pytest.raises(InputError, match="--run-id"):
        name_run("job", run_id)


def test_a_storage_path_that_is_a_file_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match=r"storage\.path"):
        Storage(str(file))


def test_a_bucket_that_is_not_there_is_refused(s3_url):
    with pytest.raises(ConfigError, match=r"storage\.path: s3://nobody cannot be written.*bucket"):
        Storage("s3://nobody?" + s3_url.partition("?")[2], retry_s=0).create("a")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission_is_refused(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(ConfigError, match="cannot be written"):
        Storage(str(tmp_path / "store")).create("a")


@S3_IS_SLOW
def test_a_process_that_is_paused_loses_its_run_when_it_was_taken_over(storage, quick):
    """SIGSTOP stands for a machine that sleeps: its process wakes up and must not write any more."""
    run = begin(storage, "a", "2026-01-01")
    process = hold_elsewhere(storage)
    try:
        process.send_signal(signal.SIGSTOP)
        of_another_machine(run)
        process.send_signal(signal.SIGCONT)
        assert process.wait(timeout=20) != 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert json.loads(run.store.read(run.key("lease.json")))["owner"] == "other"
