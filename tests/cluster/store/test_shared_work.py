"""A cached result is computed once, however many jobs need it at the same time; in a directory and on S3."""

import logging
import os
import signal
import threading
import time

import pytest

from distiltune.cluster.store import lease as leases
from distiltune.cluster.store import shared_work
from distiltune.cluster.store.lease import Claim
from distiltune.cluster.store.shared_work import WORK, computed_once
from distiltune.storage.folders import new_folder
from distiltune.storage.store import Store

KEY = "cache/teachers/0123456789abcdef"
NAME = "teachers-0123456789abcdef.lease.json"
DOING = "prepares the same teacher"


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Make heartbeats and polling fast."""
    monkeypatch.setenv("DISTILTUNE_CACHE", str(tmp_path / "mirror"))
    for module, name, seconds in (
        (leases, "_SETTLE_S", 0.05),
        (leases, "BEAT_S", 0.1),
        (leases, "STALE_AFTER_S", 5.0),
        (shared_work, "_POLL_S", 0.02),
        (shared_work, "_POLL_REMOTE_S", 0.05),
    ):
        monkeypatch.setattr(module, name, seconds)


@pytest.fixture(params=["directory", "s3"])
def store(request, tmp_path):
    url = str(tmp_path / "store") if request.param == "directory" else request.getfixturevalue("s3_url")
    return Store(url, retry_s=2)


@pytest.fixture
def directory(tmp_path):
    return Store(str(tmp_path / "store"), retry_s=2)


class Job(threading.Thread):
    """A job that needs the folder, and computes it unless it is there; ``fault`` is raised in the computation."""

    def __init__(self, store, run_id, fault=None):
        super().__init__(daemon=True)
        self._store, self._run_id, self._fault = store, run_id, fault
        self.computes, self.may_end = threading.Event(), threading.Event()
        self.messages, self.num_computed, self.raised = [], 0, None

    def run(self):
        try:
            self.work()
        except ValueError as error:
            self.raised = error

    def work(self):
        with computed_once(
            self._store,
            KEY,
            DOING,
            run_id=self._run_id,
            report=lambda progress: self.messages.append(progress.message),
        ):
            if self._store.has_folder(KEY):
                return
            self.num_computed += 1
            self.computes.set()
            assert self.may_end.wait(20)
            if self._fault is not None:
                raise self._fault
            with new_folder(self._store.local(KEY)) as folder:
                (folder / "model").write_text(self._run_id)
            self._store.publish(KEY, shared=True)


@pytest.fixture
def impatient(monkeypatch):
    """Takes a claim over without waiting long for a heartbeat."""
    monkeypatch.setattr(leases, "STALE_AFTER_S", 0.4)


def of_another_machine(store, **changes):
    record = {"owner": "other", "host": "far", "machine": "far", "pid": 1, "process_started": 0.0, "beats": 7}
    store.write_json(f"{WORK}/{NAME}", {**record, "at": time.time(), "run_id": "b", **changes})


def wait_until(holds):
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_second_of_two_jobs_waits_for_the_first_and_reuses_its_result(store):
    first, second = Job(store, "a"), Job(store, "b")
    first.start()
    assert first.computes.wait(20)
    second.start()
    wait_until(lambda: second.messages)
    first.may_end.set()
    first.join(20)
    second.join(20)
    assert not first.is_alive() and not second.is_alive()
    assert (first.num_computed, second.num_computed) == (1, 0)
    assert first.messages == []
    assert len(second.messages) == 1, "once, since nothing changed"
    assert second.messages[0].startswith(f"waiting for run a (pid {os.getpid()} on ")
    assert second.messages[0].endswith("), which prepares the same teacher")
    assert (store.fetch(KEY) / "model").read_text() == "a"
    assert store.names(WORK) == [], "nothing is left of the claims"


def test_a_waiting_job_computes_the_result_that_the_first_one_failed_to(store):
    first, second = Job(store, "a", fault=ValueError("out of memory")), Job(store, "b")
    first.start()
    assert first.computes.wait(20)
    second.start()
    second.may_end.set()
    wait_until(lambda: second.messages)
    first.may_end.set()
    first.join(20)
    second.join(20)
    assert str(first.raised) == "out of memory" and second.raised is None
    assert (first.num_computed, second.num_computed) == (1, 1)
    assert (store.fetch(KEY) / "model").read_text() == "b"
    assert store.names(WORK) == []


def test_the_claim_of_a_killed_process_is_taken_over(directory):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with computed_once(directory, KEY, DOING, run_id="a"):
            os.write(writer, b".")
            time.sleep(60)
        os._exit(0)
    try:
        assert os.read(reader, 1) == b"."
        second = Job(directory, "b")
        second.start()
        wait_until(lambda: second.messages)
        assert f"pid {child} " in second.messages[0] and not second.computes.is_set()
        os.kill(child, signal.SIGKILL)
    finally:
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
    second.may_end.set()
    second.join(20)
    assert second.num_computed == 1 and directory.names(WORK) == []


@pytest.mark.usefixtures("impatient")
def test_a_claim_of_another_machine_without_heartbeat_is_taken_over_whatever_its_clock_says(store):
    of_another_machine(store, at=time.time() + 10_000)
    job = Job(store, "a")
    job.may_end.set()
    began = time.monotonic()
    job.start()
    job.join(20)
    assert time.monotonic() - began >= leases.STALE_AFTER_S
    assert job.num_computed == 1
    assert job.messages == ["waiting for run b (pid 1 on far), which prepares the same teacher"]


@pytest.mark.usefixtures("impatient")
def test_a_claim_of_another_machine_is_respected_while_it_beats(directory):
    job, beats = Job(directory, "a"), 0
    of_another_machine(directory, at=1.0)
    job.start()
    began = time.monotonic()
    while time.monotonic() - began < 1.5 * leases.STALE_AFTER_S:
        beats += 1
        of_another_machine(directory, at=1.0, beats=beats)
        time.sleep(0.05)
    assert not job.computes.is_set()
    directory.delete(f"{WORK}/{NAME}")
    job.may_end.set()
    job.join(20)
    assert job.num_computed == 1


def test_a_job_waits_no_longer_than_the_bound(directory, monkeypatch, caplog):
    monkeypatch.setattr(shared_work, "MOST_WAIT_S", 0.1)
    holder = Claim(directory, WORK, NAME, lock=f"{WORK}/.lock", more={"run_id": "a"})
    assert holder.take(None) is None
    try:
        job = Job(directory, "b")
        job.may_end.set()
        with caplog.at_level(logging.WARNING):
            job.work()
        assert job.num_computed == 1
        assert "run a" in caplog.text and "takes too long" in caplog.text
        assert holder.read()["run_id"] == "a", "its claim is left alone"
    finally:
        holder.release()


def test_ctrl_c_ends_a_job_that_waits(directory):
    holder = Claim(directory, WORK, NAME, lock=f"{WORK}/.lock")
    assert holder.take(None) is None
    job = Job(directory, "b")
    main = threading.main_thread().ident
    timer = threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            job.work()
        assert job.num_computed == 0
        assert job.messages[0].startswith("waiting for another job (pid ")
    finally:
        timer.join()
        holder.release()


@pytest.mark.parametrize("content", [b"", b"{", b'{"owner": 1}'])
def test_a_damaged_claim_is_deleted(directory, content, caplog):
    directory.write(f"{WORK}/{NAME}", content)
    job = Job(directory, "a")
    job.may_end.set()
    job.work()
    assert job.num_computed == 1 and job.messages == []
    assert NAME in caplog.text
    assert directory.names(WORK) == []


def test_a_result_that_exists_needs_no_claim(directory):
    directory.local(KEY).mkdir(parents=True)
    of_another_machine(directory)
    job = Job(directory, "a")
    job.work()
    assert job.num_computed == 0 and job.messages == []
    assert directory.read_json(f"{WORK}/{NAME}")["owner"] == "other"


def test_of_many_jobs_one_computes(directory):
    jobs = [Job(directory, f"job-{number}") for number in range(8)]
    for job in jobs:
        job.may_end.set()
        job.start()
    for job in jobs:
        job.join(20)
    assert sum(job.num_computed for job in jobs) == 1
