"""Ray clusters, workers of trials, and drivers, as processes that can be killed one by one."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from servers import S3_ENVIRONMENT
from stored_searches import eventually, kill

from distiltune.search.driver.run_search import RAY_WORKER_ENV

HERE = Path(__file__).parent
NO_TRIAL = ("IDLE", "Agent")  # ends of the titles of Ray's other processes
OURS = os.pathsep.join([str(HERE), str(HERE.parent / "support")])


def make_environment(cache: Path, **others: str) -> dict[str, str]:
    """Return the environment of clusters and drivers, which share a secret token."""
    path = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        **RAY_WORKER_ENV,
        **S3_ENVIRONMENT,
        "PYTHONPATH": OURS + (os.pathsep + path if path else ""),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "DISTILTUNE_CACHE": str(cache),
        **others,
    }


class Cluster:
    """A Ray cluster with a process of its own.

    Args:
        environment: See ``make_environment``.
        head_cpus: CPUs of the head.
    """

    def __init__(self, environment: dict[str, str], head_cpus: int) -> None:
        self.temporary = Path(tempfile.mkdtemp(prefix="dc-", dir="/tmp"))  # Ray's sockets need a short path
        with (self.temporary / "stderr").open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "cluster_program.py")],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self._send({"temporary": str(self.temporary), "head_cpus": head_cpus})
        self._head: dict[str, Any] | None = None
        self.nodes: list[int] = []
        """Process ids of the raylets other than the head's."""

    def _send(self, content: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(content) + "\n")
        self.process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.temporary / "stderr").read_text()[-3000:]
        return json.loads(line)

    @property
    def head(self) -> dict[str, Any]:
        """The head's ``address``, and the process ids ``raylet`` and ``gcs``; waits until the head is up."""
        if self._head is None:
            self._head = self._receive()
        return self._head

    def add_node(self, cpus: int) -> None:
        _ = self.head
        self._send({"cpus": cpus})
        self.nodes.append(self._receive()["raylet"])

    def raylets(self) -> list[int]:
        return [self.head["raylet"], *self.nodes]

    def workers(self, raylet: int | None = None) -> list[int]:
        """Return the processes that hold a trial: Ray's workers that are not idle."""
        found = []
        for each in self.raylets() if raylet is None else [raylet]:
            with suppress(psutil.Error):
                for child in psutil.Process(each).children():
                    with suppress(psutil.Error, IndexError):
                        title = child.cmdline()[0]
                        if title.startswith("ray::") and not title.endswith(NO_TRIAL):
                            found.append(child.pid)
        return sorted(found)

    def kill_head(self) -> None:
        """Kill all processes of the head at once."""
        for pid in (self.head["gcs"], self.head["raylet"]):
            os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        end_process(self.process)
        shutil.rmtree(self.temporary, ignore_errors=True)


@dataclass
class Driver:
    """A driver that runs a job.

    Attributes:
        pid: Id of its process.
        result: The file that it writes at its end.
        began: The file that it writes when it begins to search.
        log: The file with its output.
    """

    pid: int
    result: Path
    began: Path
    log: Path
    found: dict[str, Any] | None = field(default=None, init=False)

    def running(self) -> bool:
        return psutil.pid_exists(self.pid)

    def wait_began(self) -> float:
        """Wait until it starts to search, and return the time."""
        eventually(lambda: self.began.exists() or not self.running(), 60)
        return float(self.began.read_text() or time.time())

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        eventually(lambda: not self.running(), 20)

    def wait(self, timeout_s: float) -> dict[str, Any] | None:
        """Wait for its results; None if it ended without any, or not in time."""
        deadline = time.monotonic() + timeout_s
        while self.running() and time.monotonic() < deadline:
            time.sleep(0.05)
        return json.loads(self.result.read_text()) if self.result.exists() else None


class Drivers:
    """The process whose forks are the drivers."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._folder = folder
        self._count = 0
        with (folder / "drivers.stderr").open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "driver_program.py")],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self._ready = False

    def _receive(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, (self._folder / "drivers.stderr").read_text()[-3000:]
        return line.strip()

    def start(self, job: dict[str, Any]) -> Driver:
        """Start a driver of ``job``: ``address``, ``url``, ``retry_s``, ``checkpoint_every_s`` and ``search``."""
        if not self._ready:
            assert self._receive() == "ready"
            self._ready = True
        self._count += 1
        paths = {name: self._folder / f"driver-{self._count}.{name}" for name in ("result", "began", "log")}
        assert self._process.stdin is not None
        line = json.dumps({**job, **{name: str(path) for name, path in paths.items()}})
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return Driver(int(self._receive()), **paths)

    def end(self) -> None:
        end_process(self._process)


def end_process(process: subprocess.Popen[str]) -> None:
    kill(process)
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with suppress(BrokenPipeError):
            pipe.close()


@contextmanager
def ended(make: Callable[[], Any]) -> Iterator[Any]:
    """Yield the result of ``make``, and end it with the block."""
    made = make()
    try:
        yield made
    finally:
        made.end()
