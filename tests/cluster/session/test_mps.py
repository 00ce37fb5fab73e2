"""The Multi-Process Service around a search: the command is a script, so that no GPU is needed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from fake_gpus import fake_command, fake_cuda, needs_gpu

from distiltune.cluster.session import mps
from distiltune.cluster.session.mps import COMMAND, MpsDaemon, mps_daemons
from distiltune.search.trial import device
from distiltune.search.trial.device import MPS_DIRECTORY, own_device

# Serves until it receives `quit`, like the real one: `-f` runs it in the foreground; a variable names its directory.
SERVES = """
directory="$CUDA_MPS_PIPE_DIRECTORY"
test -d "$CUDA_MPS_LOG_DIRECTORY" || exit 3
if [ "$1" = -f ]; then
  mkfifo "$directory/log" || exit 4
  touch "$directory/control"
  while [ ! -e "$directory/quit" ]; do sleep 0.02; done
else
  read word; [ "$word" = quit ] && touch "$directory/quit"
fi
"""


def test_the_service_runs_until_it_is_stopped_and_has_all_devices_of_the_node(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    fake_command(monkeypatch, tmp_path, COMMAND, SERVES)
    daemon = MpsDaemon()
    directory = daemon.start()
    assert directory is not None and Path(directory).is_dir()
    process = psutil.Process(daemon._process.pid)
    assert process.is_running()
    assert "CUDA_VISIBLE_DEVICES" not in process.environ()
    daemon.stop()
    daemon.stop()
    assert not process.is_running()
    assert not Path(directory).parent.exists()


@pytest.mark.parametrize("script", ["exit 1", "sleep 60"])
def test_one_that_does_not_start_leaves_nothing(script, monkeypatch, tmp_path):
    fake_command(monkeypatch, tmp_path, COMMAND, script)
    monkeypatch.setattr(mps, "_START_WITHIN_S", 0.2)
    monkeypatch.setattr(mps, "_END_WITHIN_S", 0.2)
    daemon = MpsDaemon()
    assert daemon.start() is None
    assert daemon._process is None and daemon._directory is None


def test_a_node_without_the_command_has_no_service(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert MpsDaemon().start() is None


@pytest.mark.slow
def test_it_ends_with_a_process_that_is_killed(monkeypatch, tmp_path):
    fake_command(monkeypatch, tmp_path, COMMAND, SERVES)
    code = (
        "import time; from distiltune.cluster.session.mps import MpsDaemon; daemon = MpsDaemon(); daemon.start();"
        "print(daemon._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        served = psutil.Process(int(process.stdout.readline()))
        process.kill()
    deadline = time.monotonic() + 20
    while served.is_running() and served.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not served.is_running() or served.status() == psutil.STATUS_ZOMBIE


class Service:
    """A Ray actor with the service of a node, simulated in this process."""

    def __init__(self, node: str, answer: str | None, calls: list[str]) -> None:
        self.start = SimpleNamespace(remote=lambda: calls.append(f"start {node}") or answer)
        self.stop = SimpleNamespace(remote=lambda: calls.append(f"stop {node}"))


@pytest.fixture
def calls(monkeypatch):
    """Record the calls on three nodes: two have GPUs, and one of these has no service."""
    import ray

    made: list[str] = []
    services = iter([Service("a", "/run/a", made), Service("b", None, made)])
    described = [
        {"Alive": True, "NodeID": name * 56, "NodeManagerHostname": f"host-{name}", "Resources": resources}
        for name, resources in (("a", {"GPU": 8}), ("b", {"GPU": 1}), ("c", {"CPU": 4}))
    ]

    class Remote:
        def options(self, **options):
            assert options["num_cpus"] == 0
            return self

        def remote(self):
            return next(services)

    monkeypatch.setattr(ray, "nodes", lambda: described)
    monkeypatch.setattr(ray, "remote", lambda _: Remote())
    monkeypatch.setattr(ray, "get", lambda value, **_: value)
    monkeypatch.setattr(ray, "kill", lambda _: None)
    return made


def test_every_node_with_gpus_has_one_for_the_time_of_a_search(calls, caplog):
    with pytest.raises(KeyError), mps_daemons(wanted=True) as directories:
        assert directories == {"a" * 56: "/run/a"}
        assert calls == ["start a", "start b"]
        raise KeyError
    assert calls == ["start a", "start b", "stop a", "stop b"]
    [record] = caplog.records
    assert all(each in record.getMessage() for each in ("resources.mps", COMMAND, "host-b"))


def test_by_default_nothing_is_started(calls):
    with mps_daemons(wanted=False) as directories:
        assert directories == {}
    assert not calls


@pytest.mark.parametrize(
    ("use_gpu", "node", "expected"), [(True, "a", "/run/a"), (True, "c", None), (False, "a", None)]
)
def test_a_trial_on_a_gpu_finds_the_service_of_its_node(use_gpu, node, expected, monkeypatch):
    fake_cuda(monkeypatch, 1)
    monkeypatch.delenv(MPS_DIRECTORY, raising=False)
    monkeypatch.setattr(device, "assigned_gpus", lambda: ["0"])
    monkeypatch.setattr(device, "_node", lambda: node)
    with own_device(use_gpu=use_gpu, mps={"a": "/run/a"}):
        assert os.environ.get(MPS_DIRECTORY) == expected
    assert MPS_DIRECTORY not in os.environ


@pytest.mark.gpu
@needs_gpu
def test_the_real_service_serves_a_process():
    daemon = MpsDaemon()
    directory = daemon.start()
    if directory is None:
        pytest.skip(f"{COMMAND} does not start on this machine")
    try:
        code = "import torch; print(float(torch.ones(3, device='cuda').sum()))"
        environment = {**os.environ, MPS_DIRECTORY: directory}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == "3.0"
    finally:
        daemon.stop()
