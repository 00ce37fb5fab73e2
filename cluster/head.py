"""The Ray that a job runs on: a private local one, or a cluster that exists already."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import RunFailedError
from ..search.tuner import RAY_WORKER_ENV
from .config import ResourcesConfig

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextmanager
def ray_session(resources: ResourcesConfig) -> Iterator[None]:
    """Attach to ``resources.address``, or start a Ray on this machine that ends with the block.

    The local one listens with a token of its own, keeps its files in a private temporary directory (a short
    path, as Ray's sockets need), and sends no usage statistics.

    Raises:
        RunFailedError: No Ray answers at the address, or none can be started here.
    """
    directory = (
        None if resources.address else tempfile.mkdtemp(prefix="dt-", dir=_short_temporary_directory())
    )
    environment = _QUIET | RAY_WORKER_ENV
    if directory:
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    import ray

    try:
        _connect(ray, resources, directory)
        yield
    finally:
        ray.shutdown()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        if directory:
            shutil.rmtree(directory, ignore_errors=True)


def _short_temporary_directory() -> str | None:
    return "/tmp" if os.access("/tmp", os.W_OK) else None


def _connect(ray: Any, resources: ResourcesConfig, directory: str | None) -> None:
    common: dict[str, Any] = {
        "logging_level": "ERROR",
        "log_to_driver": False,
        "runtime_env": {"env_vars": dict(RAY_WORKER_ENV)},
    }
    try:
        if directory is None:
            ray.init(address=resources.address, **common)
        else:
            ray.init(num_cpus=resources.num_cpus, include_dashboard=False, _temp_dir=directory, **common)
    except Exception as error:
        what = f"at {resources.address}" if resources.address else "on this machine"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunFailedError(f"resources.address: no Ray cluster {what}: {reason}") from error


def whole_node() -> tuple[str, float]:
    """Id and CPUs of the live node that has the most CPUs: where a measurement has a machine for itself."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if not nodes:
        raise RunFailedError("the cluster has no node with CPUs; add one and run again")
    best = max(nodes, key=lambda node: node["Resources"]["CPU"])
    return best["NodeID"], best["Resources"]["CPU"]


def num_gpus() -> float:
    """GPUs of the whole cluster."""
    import ray

    return ray.cluster_resources().get("GPU", 0)
