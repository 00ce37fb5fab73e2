"""Connect a job to Ray: a private local instance, or an existing cluster."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

from ...errors import RunFailedError, first_line, shown
from ...progress import Progress, ReportProgress
from ...search.driver.nodes import RAY_WORKER_ENV, num_places
from ...storage.environment import environment_set
from ...storage.temporary import TemporaryDirectory
from ..nodes.addresses import check_gcs_address, driver_environment
from ..nodes.loopback import MULTI_NODE_ENV
from ..nodes.ray_environment import PROCESS_ENV
from ..specification.resources import ResourcesConfig, TaskResources
from .private_ray import PrivateDirectory, own_job_config, start_private_ray
from .shipped_code import runtime_env

_LEAST_CPUS = 4  # per parallel training, unless only two run: a batch of short texts keeps few cores busy


@contextmanager
def ray_session(resources: ResourcesConfig) -> Iterator[None]:
    """Connect to ``resources.address``, or start a Ray instance on this machine that ends with the block.

    The local instance listens on 127.0.0.1 only, with its own token, keeps its files in a private temporary
    directory (a short path, as Ray's sockets require), and sends no usage statistics.

    Raises:
        RunFailedError: No Ray responds at the address, or none can be started here.
    """
    environment = dict(PROCESS_ENV)
    if resources.address:
        environment |= driver_environment(resources.address)
    else:
        # With this variable, Ray does not replace 127.0.0.1, and everything listens on that address only.
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token(), MULTI_NODE_ENV: "0"}
    directories: list[TemporaryDirectory | PrivateDirectory] = []
    try:
        with environment_set(environment, "RAY_TMPDIR"):
            import ray

            terminate = signal.getsignal(signal.SIGTERM)
            try:
                _read_environment_again()
                if resources.address:
                    _attach(resources.address)
                    locks = TemporaryDirectory("locks")
                    directories.append(locks)
                    # Not before: Ray would look there for an instance on this machine.
                    os.environ["RAY_TMPDIR"] = str(locks.path)
                else:
                    directories.append(start_private_ray(resources.num_cpus))
                if threading.current_thread() is threading.main_thread():
                    # Ray installs its own handler, which exits silently.
                    signal.signal(signal.SIGTERM, terminate)
                yield
            finally:
                ray.shutdown()
    finally:
        _read_environment_again()
        for each in directories:
            each.remove()


def _read_environment_again() -> None:
    """Make Ray reread its settings, which it reads once on import; there is no public function for this."""
    from ray._raylet import Config  # pyright: ignore[reportAttributeAccessIssue]

    Config.initialize("")


@cache
def _token() -> str:
    """Return the token of all Ray instances of this process: Ray reads it only once per process."""
    return secrets.token_hex(32)


def _attach(address: str) -> None:
    import ray

    check_gcs_address("resources.address", address)
    # The driver of a submitted job already has our code.
    is_shipped = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    try:
        with nullcontext({"env_vars": dict(RAY_WORKER_ENV)}) if is_shipped else runtime_env() as environment:
            ray.init(
                address=address,
                job_config=own_job_config(),
                runtime_env=environment,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
    except Exception as error:
        raise RunFailedError(
            f"resources.address: no Ray cluster at {shown(address)}: {first_line(error)}; is the cluster up?"
        ) from error


def needs_of(requested: TaskResources, default_gpus: float) -> dict[str, float]:
    """Return the resources that a task needs on a node, by Ray's resource names."""
    return {"CPU": requested.cpu, "GPU": requested.gpus(default_gpus), **requested.custom}


def whole_node(wanted: TaskResources, report: ReportProgress | None = None) -> tuple[str, float]:
    """Return id and CPUs of a large enough node: preferably without GPUs, then the one with the most CPUs.

    If no live node is large enough, request one from the cluster, which may add it on demand.
    """
    best = _large_node(wanted, report)
    return best["NodeID"], best["Resources"]["CPU"]


def node_share(wanted: TaskResources, num_tasks: int, report: ReportProgress | None = None) -> float:
    """Return the CPUs of each of several equal trainings on the node that ``whole_node`` selects."""
    resources = _large_node(wanted, report)["Resources"]
    return cpus_of_each(num_tasks, resources["CPU"], resources.get("GPU", 0) if wanted.gpus(0) else 0)


def cpus_of_each(num_tasks: int, num_cpus: float, num_gpus: float = 0) -> float:
    """Return the CPUs of each of several equal trainings that share a node.

    Each training gets one GPU if there are any, else at least ``_LEAST_CPUS`` CPUs; on a smaller node, two share it.
    On a node with one CPU or GPU, each gets the whole node, and they run one after another.

    Args:
        num_tasks: Number of trainings.
        num_cpus: CPUs of the node.
        num_gpus: GPUs of the node that the trainings use.
    """
    num_places = int(num_gpus) if num_gpus else int(max(num_cpus // _LEAST_CPUS, min(num_cpus, 2)))
    at_once = min(num_tasks, num_places)
    return num_cpus if at_once < 2 else float(max(1, num_cpus // at_once))


def _large_node(wanted: TaskResources, report: ReportProgress | None = None) -> dict[str, Any]:
    import ray

    needs = needs_of(wanted, 0)

    def large_enough(node: dict[str, Any]) -> bool:
        return node["Alive"] and num_places(node["Resources"], needs) >= 1

    nodes = [node for node in ray.nodes() if large_enough(node)]
    while not nodes:
        if report is not None:
            report(Progress("waiting for a node of its own", {"waiting_for": "a node of its own"}))
        _wait_for_node(needs)
        nodes = [node for node in ray.nodes() if large_enough(node)]
    return min(nodes, key=lambda node: (node["Resources"].get("GPU", 0), -node["Resources"]["CPU"]))


def _wait_for_node(needs: dict[str, float]) -> None:
    """Wait for the cluster's autoscaler to add a node that is large enough."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([{kind: amount for kind, amount in needs.items() if amount}])
    try:
        while not ray.wait([group.ready()], timeout=1)[0]:
            continue
    finally:
        remove_placement_group(group)


def num_gpus(resources: ResourcesConfig) -> float:
    """Return the number of GPUs in the whole cluster, including those of the node types that it adds on demand."""
    import ray

    return ray.cluster_resources().get("GPU", 0) + resources.gpus_on_demand
