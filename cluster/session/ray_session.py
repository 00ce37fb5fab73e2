"""The Ray that a job runs on: a private local one, or a cluster that exists already."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from ...errors import RunFailedError, first_line, shown
from ...search.driver.run_search import RAY_WORKER_ENV
from ...storage.environment import environment_set
from ...storage.temporary import TemporaryDirectory
from ..nodes.addresses import check_gcs_address, driver_environment
from ..nodes.loopback import MULTI_NODE_ENV
from ..nodes.ray_environment import QUIET
from ..specification.config import ResourcesConfig, TaskResources
from .private_ray import PrivateDirectory, start_private_ray


@contextmanager
def ray_session(resources: ResourcesConfig) -> Iterator[None]:
    """Attach to ``resources.address``, or start a Ray on this machine that ends with the block.

    The local one listens on 127.0.0.1 alone, with a token of its own, keeps its files in a private temporary
    directory (a short path, as Ray's sockets need), and sends no usage statistics.

    Raises:
        RunFailedError: No Ray answers at the address, or none can be started here.
    """
    environment = QUIET | RAY_WORKER_ENV
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
    environment: dict[str, Any] = {"env_vars": dict(RAY_WORKER_ENV)}
    try:
        with _shipped_code() as shipped:
            ray.init(
                address=address,
                runtime_env={**environment, **shipped},
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
    except Exception as error:
        raise RunFailedError(
            f"resources.address: no Ray cluster at {shown(address)}: {first_line(error)}; is the cluster up?"
        ) from error


@contextmanager
def _shipped_code() -> Iterator[dict[str, Any]]:
    """Our code for the nodes of a cluster; the driver of a submitted job came with it."""
    from .shipped_code import staged_code

    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        yield {}
        return
    with staged_code() as code:
        yield {"py_modules": [str(code)]}


def whole_node(wanted: TaskResources, on_wait: Callable[[str], None] = lambda _: None) -> tuple[str, float]:
    """Id and CPUs of a node that is large enough: one without GPUs if there is, of those the one of most CPUs.

    When no live node is, the cluster is asked for one, which it may add on demand.
    """
    import ray

    def large_enough(node: dict[str, Any]) -> bool:
        needs = {"CPU": wanted.cpu, "GPU": wanted.gpu or 0, **wanted.custom}
        return node["Alive"] and all(node["Resources"].get(name, 0) >= need for name, need in needs.items())

    nodes = [node for node in ray.nodes() if large_enough(node)]
    while not nodes:
        on_wait("a node of its own")
        _wait_for_node(wanted)
        nodes = [node for node in ray.nodes() if large_enough(node)]
    best = min(nodes, key=lambda node: (node["Resources"].get("GPU", 0), -node["Resources"]["CPU"]))
    return best["NodeID"], best["Resources"]["CPU"]


def _wait_for_node(wanted: TaskResources) -> None:
    """Have the cluster's autoscaler add a node that is large enough."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    bundle = {"CPU": wanted.cpu, **({"GPU": wanted.gpu} if wanted.gpu else {}), **wanted.custom}
    group = placement_group([bundle])
    try:
        while not ray.wait([group.ready()], timeout=1)[0]:
            continue
    finally:
        remove_placement_group(group)


def num_gpus() -> float:
    """GPUs of the whole cluster."""
    import ray

    return ray.cluster_resources().get("GPU", 0)
