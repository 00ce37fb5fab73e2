"""The Ray that a job starts for itself, where starting it goes wrong."""

import os
import time

import pytest

from distiltune.cluster import private_ray
from distiltune.errors import RunFailedError


@pytest.fixture
def starts(monkeypatch, tmp_path):
    """Ray's starts in place of real ones: each fails as the list says, or does not where it says None."""
    import ray

    faults = []

    def start(**given):
        fault = faults.pop(0)
        if fault is not None:
            raise fault

    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # the one that the other tests share goes on
    monkeypatch.setattr(private_ray, "_PREFIX", f"dt-test-{tmp_path.name[:20]}-")
    return faults


def test_a_ray_whose_processes_answer_too_late_is_started_once_more(starts):
    starts += [RuntimeError("Failed to start GCS."), None]
    private_ray.start_private_ray(2).remove()
    assert not starts


def test_a_ray_that_does_not_start_is_one_line_and_leaves_no_directory(starts):
    starts += [RuntimeError("Failed to start GCS."), RuntimeError("\nFailed to start GCS.\nand more")]
    with pytest.raises(RunFailedError) as raised:
        private_ray.start_private_ray(2)
    assert str(raised.value) == "resources.address: no Ray cluster on this machine: Failed to start GCS."
    starts += [ValueError("num_cpus must be positive")]
    with pytest.raises(RunFailedError, match="num_cpus must be positive"):
        private_ray.start_private_ray(-1)
    assert not list(private_ray.Path("/tmp").glob(f"{private_ray._PREFIX}*"))


def test_directories_of_killed_processes_go_and_one_that_another_just_makes_stays(starts):
    old, new, held = (private_ray.PrivateDirectory() for _ in range(3))
    # As a process leaves it that is killed, and as one has it that has not locked it yet.
    for each in (old, new):
        each._lock.release()
        (each.path / "distiltune.lock").touch()
    for each in (old, held):
        os.utime(each.path / "distiltune.lock", (time.time() - 3600,) * 2)
    starts += [None]
    private_ray.start_private_ray(2).remove()
    assert [each.path.exists() for each in (old, new, held)] == [False, True, True]
    for each in (new, held):
        each.remove()
