"""The Ray instance that a job starts for itself, and what happens if it does not start."""

import contextlib
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from commands import lives
from fake_gpus import needs_gpu

from distiltune.cluster.session import private_ray
from distiltune.errors import RunFailedError
from distiltune.training.machine import num_visible_gpus


@pytest.fixture
def starts(monkeypatch):
    """Simulate Ray's starts: each raises the next entry of the list, or succeeds if that is None."""
    import ray

    faults = []

    def start(**given):
        fault = faults.pop(0)
        if fault is not None:
            raise fault

    monkeypatch.setattr(ray, "init", start)
    # The instance that the other tests share keeps running.
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(private_ray, "_PREFIX", f"dt-{secrets.token_hex(3)}-")
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
    assert not list(Path("/tmp").glob(f"{private_ray._PREFIX}*"))


@pytest.mark.parametrize(("seen", "given"), [(0, None), (1, 1), (8, 8)])
def test_ray_is_given_the_gpus_that_torch_sees_and_counts_itself_if_there_are_none(seen, given, monkeypatch):
    """Those that torch does not see are refused by the checks of the job, which need Ray's count."""
    import ray

    num_gpus = []
    monkeypatch.setattr(ray, "init", lambda **options: num_gpus.append(options["num_gpus"]))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(private_ray, "_PREFIX", f"dt-{secrets.token_hex(3)}-")
    monkeypatch.setattr(private_ray, "num_visible_gpus", lambda: seen)
    private_ray.start_private_ray(2).remove()
    assert num_gpus == [given]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.usefixtures("ray_session")
def test_the_local_ray_counts_the_gpus_that_torch_sees():
    import ray

    assert ray.cluster_resources()["GPU"] == num_visible_gpus() >= 1


def test_leftovers_of_killed_processes_are_removed_and_directories_in_use_stay(starts):
    kept = private_ray.PrivateDirectory()
    code = (
        "import os, signal, subprocess, sys\n"
        "from distiltune.cluster.session import private_ray\n"
        f"private_ray._PREFIX = {private_ray._PREFIX!r}\n"
        "directory = private_ray.PrivateDirectory()\n"
        "directory._watchdog._process.kill()\n"  # as when both are killed at once
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], cwd=directory.path,\n"
        "    stdout=subprocess.DEVNULL)\n"
        "print(directory.path, child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    left, child = done.stdout.split()
    assert Path(left).exists()
    assert lives(int(child))
    starts += [None]
    private_ray.start_private_ray(2).remove()
    assert not Path(left).exists()
    assert not lives(int(child))
    assert kept.path.exists()
    kept.remove()


def test_only_this_user_enters_the_directory_of_ray(ray_session):
    from ray._private.worker import global_worker

    for_ray = Path(global_worker.node.get_temp_dir_path())
    assert for_ray.parent.stat().st_mode & 0o777 == 0o700
    assert for_ray.parent.stat().st_uid == os.getuid()
    assert for_ray.name == "r"
    assert (
        max(len(str(each)) for each in for_ray.glob("session_2*/sockets/*")) < 100
    )  # a socket's most is 107


def test_everything_of_a_job_on_this_machine_listens_on_loopback_alone(ray_session):
    import ray

    ray.get([ray.remote(lambda: None).remote() for _ in range(2)])
    own = psutil.Process()
    found = {}
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in process.net_connections("tcp"):
                if each.status == psutil.CONN_LISTEN:
                    found.setdefault(each.laddr.ip.removeprefix("::ffff:"), set()).add(process.name())
    assert set(found) == {"127.0.0.1"}
    assert {"gcs_server", "raylet"} <= found["127.0.0.1"]


def test_locks_of_ray_lie_in_the_private_directory(ray_session, tmp_path):
    import ray
    from ray._private.worker import global_worker

    def place():
        from ray.air._internal.filelock import TempFileLock

        with TempFileLock("/any") as lock:
            return str(lock._lock_path)

    private = Path(global_worker.node.get_temp_dir_path()).parent
    for found in (place(), ray.get(ray.remote(place).remote())):
        assert Path(found).is_relative_to(private)


ATTACKS = (
    'ls "$0"',
    'ls "$0/r"',
    'stat "$0/r/session_latest"',
    'echo x > "$0/r/planted"',
    'ln -s /etc/passwd "$0/planted"',
    'mv "$0" "$0.moved"',
)


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_cannot_touch_a_ray_that_starts(tmp_path):
    """Tried from the first moment on: port files are written, and read again, while it starts."""
    start = (
        "import sys, time\n"
        "from distiltune.cluster.specification.resources import ResourcesConfig\n"
        "from distiltune.cluster.session.ray_session import ray_session\n"
        "with ray_session(ResourcesConfig(num_cpus=1)):\n"
        "    print('up', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    before = set(Path("/tmp").glob("dt-*"))
    process = subprocess.Popen(
        [sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    succeeded, refusals = [], []
    try:
        while not (new := set(Path("/tmp").glob("dt-*")) - before):
            assert process.poll() is None
            time.sleep(0.01)
        [private] = new

        def attack():
            for command in ATTACKS:
                done = subprocess.run(
                    ["sh", "-c", command, str(private)],
                    user=65534,
                    group=65534,
                    extra_groups=[],
                    cwd="/",
                    capture_output=True,
                    text=True,
                    check=False,
                )
                succeeded.extend([command] if done.returncode == 0 else [])
                refusals.append(done.stderr)

        while not (private / "r").is_dir():
            attack()
            assert process.poll() is None
        for _ in range(20):
            attack()
        assert process.stdout.readline() == "up\n"
        attack()
        assert (private / "r").stat().st_mode & 0o002  # what Ray itself leaves open
    finally:
        process.communicate("")
    assert succeeded == []
    assert len(refusals) > 100
    assert all("denied" in each or "not permitted" in each for each in refusals)
    assert process.returncode == 0
    assert not private.exists()


@pytest.mark.slow
def test_a_killed_command_leaves_nothing_of_ray_for_long():
    code = (
        "import os, signal, subprocess\n"
        "from distiltune.cluster.specification.resources import ResourcesConfig\n"
        "from distiltune.cluster.session.ray_session import ray_session\n"
        "def work():\n"
        "    subprocess.Popen(['sleep', '6061'])\n"
        "    import time; time.sleep(100)\n"
        "with ray_session(ResourcesConfig(num_cpus=1)):\n"
        "    import ray, time, psutil\n"
        "    from ray._private.worker import global_worker\n"
        "    waited_for = ray.remote(work).remote()\n"
        "    while 'sleep' not in {each.name() for each in psutil.Process().children(recursive=True)}:\n"
        "        time.sleep(0.1)\n"
        "    print(global_worker.node.get_temp_dir_path(),\n"
        "        *[each.pid for each in psutil.Process().children(recursive=True)], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    for_ray, *pids = done.stdout.split()
    assert len(pids) > 5
    deadline = time.monotonic() + 5
    while Path(for_ray).parent.exists() or any(lives(int(pid)) for pid in pids):
        assert time.monotonic() < deadline, [each for each in pids if lives(int(each))]
        time.sleep(0.1)
