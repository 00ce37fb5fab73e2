"""NVIDIA's Multi-Process Service on the nodes of a search, so that kernels of several trials run on a GPU at once."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...storage.temporary import TemporaryDirectory, short_temporary_directory
from .watchdog import Watchdog

logger = logging.getLogger(__name__)

COMMAND = "nvidia-cuda-mps-control"
_START_WITHIN_S = 10.0
_END_WITHIN_S = 10.0


class MpsDaemon:
    """The service of one node; it runs until ``stop`` is called or this process ends."""

    def __init__(self) -> None:
        self._directory: TemporaryDirectory | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: Watchdog | None = None

    def start(self) -> str | None:
        """Start the service, and return the directory by which processes find it; None if it does not start."""
        if shutil.which(COMMAND) is None:
            return None
        self._directory = TemporaryDirectory("mps", short_temporary_directory())  # it has sockets
        for path in (self._pipes, self._logs):
            path.mkdir()
        self._process = subprocess.Popen(
            [COMMAND, "-f"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._watchdog = Watchdog([self._directory.path], [self._process.pid])
        deadline = time.monotonic() + _START_WITHIN_S
        while not (self._pipes / "control").exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                return None
            time.sleep(0.05)
        return str(self._pipes)

    @property
    def _pipes(self) -> Path:
        assert self._directory is not None
        return self._directory.path / "pipe"

    @property
    def _logs(self) -> Path:
        assert self._directory is not None
        # Beside the pipes: among them the service makes one that is called log.
        return self._directory.path / "log"

    @property
    def _environment(self) -> dict[str, str]:
        # The service would renumber the devices that it sees from 0, but trials name them as the node does.
        inherited = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        return {
            **inherited,
            "CUDA_MPS_PIPE_DIRECTORY": str(self._pipes),
            "CUDA_MPS_LOG_DIRECTORY": str(self._logs),
        }

    def stop(self) -> None:
        """End the service; a second call does nothing."""
        if self._process is None or self._directory is None:
            return
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                [COMMAND], input=b"quit\n", env=self._environment, timeout=_END_WITHIN_S, capture_output=True
            )
            self._process.wait(_END_WITHIN_S)
        self._process.kill()  # no effect if it has ended
        self._process.wait()
        self._directory.remove()
        if self._watchdog is not None:
            self._watchdog.dismiss()
        self._process = self._directory = self._watchdog = None


@contextmanager
def mps_daemons(*, wanted: bool) -> Iterator[dict[str, str]]:
    """Run the service on every node with GPUs of the connected Ray inside the block.

    Args:
        wanted: Whether to run the service; if not, the block runs without it.

    Yields:
        The directory of the service by the node's id. A node without the command has none, with a warning.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = (
        [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0) >= 1]
        if wanted
        else []
    )
    daemons: dict[str, Any] = {}
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        daemons[node["NodeID"]] = ray.remote(MpsDaemon).options(num_cpus=0, scheduling_strategy=here).remote()
    try:
        found: dict[str, str | None] = {
            node: ray.get(daemon.start.remote()) for node, daemon in daemons.items()
        }
        for node in nodes:
            if found[node["NodeID"]] is None:
                logger.warning(
                    "resources.mps is true, but %s does not start on node %s; trials share its GPUs without it",
                    COMMAND,
                    node["NodeManagerHostname"],
                )
        yield {node: directory for node, directory in found.items() if directory is not None}
    finally:
        for daemon in daemons.values():
            with suppress(RayError):  # its node is lost, and the service with it
                ray.get(daemon.stop.remote(), timeout=3 * _END_WITHIN_S)
            ray.kill(daemon)
