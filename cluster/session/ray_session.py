"""The Ray that a job runs on: a private local one, or a cluster that exists already."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

from ...errors import RunFailedError, first_line, shown
from ...search.driver.nodes import RAY_WORKER_ENV, num_places
from ...storage.environment import environment_set
from ...storage.temporary import TemporaryDirectory
from ..nodes.addresses import check_gcs_address, driver_environment
from ..nodes.loopback import MULTI_NODE_ENV
from ..nodes.ray_environment import PROCESS_ENV
from ..specification.config import ResourcesConfig, TaskResources
from .private_ray import PrivateDirectory, start_private_ray
from .shipped_code import runtime_env


@contextmanager
def ray_session(resources: ResourcesConfig) -> Iterator[None]:
    """Attach to ``resources.address``, or start a Ray on this machine that ends with the block.

    The local one listens on 127.0.0.1 alone, with a token of its own, keeps its files in a private temporary
    directory (a short path, as Ray's sockets need), and sends no usage statistics.

    Raises:
        RunFailedError: No Ray answers at the address, or none can be started here.
    """
    environment = dict(PROCESS_ENV)
    if resources.address:
        environment |= driver_environment(resources.address)
    else:
        # With this variable of Ray, 127.0.0.1 stays what it is, and everything listens there alone.
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
                    # Only now: before, it would say where a Ray of this machine is looked for.
                    os.environ["RAY_TMPDIR"] = str(locks.path)
                else:
                    directories.append(start_private_ray(resources.num_cpus))
                if threading.current_thread() is threading.main_thread():
                    # Ray puts its own in place, which exits without a word.
                    signal.signal(signal.SIGTERM, terminate)
                yield
            finally:
                ray.shutdown()
    finally:
        _read_environment_again()
        for each in directories:
            each.remove()


def _read_environment_again() -> None:
    """Ray reads its settings once, when it is imported; the only way to have it read them again is not public."""
    from ray._raylet import Config  # pyright: ignore[reportAttributeAccessIssue]

    Config.initialize("")


@cache
def _token() -> str:
    """One for all that this process starts: Ray reads its token once, and a second Ray would not know it."""
    return secrets.token_hex(32)


def _attach(address: str) -> None:
    import ray

    check_gcs_address("resources.address", address)
    is_shipped = (
        "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    )  # the driver of a submitted job came with our code
    try:
        with nullcontext({"env_vars": dict(RAY_WORKER_ENV)}) if is_shipped else runtime_env() as environment:
            ray.init(
                address=address,
                runtime_env=environment,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
    except Exception as error:
        raise RunFailedError(
            f"resources.address: no Ray cluster at {shown(address)}: {first_line(error)}; is the cluster up?"
        ) from error


def needs_of(asked: TaskResources, default_gpus: float) -> dict[str, float]:
    """Return what a task takes of a node, by Ray's names of resources."""
    gpus = default_gpus if asked.gpu is None else asked.gpu
    return {"CPU": asked.cpu, "GPU": gpus, **asked.custom}


def whole_node(wanted: TaskResources, on_wait: Callable[[str], None] = lambda _: None) -> tuple[str, float]:
    """Id and CPUs of a node that is large enough: one without GPUs if there is, of those the one of most CPUs.

    When no live node is, the cluster is asked for one, which it may add on demand.
    """
    import ray

    needs = needs_of(wanted, 0)

    def large_enough(node: dict[str, Any]) -> bool:
        return node["Alive"] and num_places(node["Resources"], needs) >= 1

    nodes = [node for node in ray.nodes() if large_enough(node)]
    while not nodes:
        on_wait("a node of its own")
        _wait_for_node(needs)
        nodes = [node for node in ray.nodes() if large_enough(node)]
    best = min(nodes, key=lambda node: (node["Resources"].get("GPU", 0), -node["Resources"]["CPU"]))
    return best["NodeID"], best["Resources"]["CPU"]


def _wait_for_node(needs: dict[str, float]) -> None:
    """Have the cluster's autoscaler add a node that is large enough."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([{kind: amount for kind, amount in needs.items() if amount}])
    try:
        while not ray.wait([group.ready()], timeout=1)[0]:
            continue
    finally:
        remove_placement_group(group)


def num_gpus() -> float:
    """GPUs of the whole cluster."""
    import ray

    return ray.cluster_resources().get("GPU", 0)
