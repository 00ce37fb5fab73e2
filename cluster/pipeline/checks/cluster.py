"""Checks of the connected cluster for a job: resources for its tasks, and a storage that all nodes share."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from ....errors import ConfigError, DistiltuneError
from ....search.driver.nodes import check_fits, live_nodes
from ....storage.store import Store
from ...session.ray_session import needs_of
from ...specification.resources import ResourcesConfig, TaskResources, TrialResources
from .gpus import check_gpus
from .targets import check_targets_on_nodes

_PATIENCE_S = 5.0  # how long one node retries the storage
_ANSWER_WITHIN_S = 90.0  # including the start of a worker
_PROBES = "cache/probes"


def check_cluster(resources: ResourcesConfig, store: Store, places: Sequence[str] = ()) -> None:
    """Reject tasks that fit on no node of the connected cluster, unusable GPUs, and a storage that is not shared.

    Args:
        resources: The section ``resources``.
        store: The run store, which all nodes must share.
        places: ``benchmark.targets``.

    Raises:
        ConfigError: A check failed; the message has the task or the nodes, and the reason.
    """
    check_resources(resources)
    check_gpus(resources, places)
    check_targets_on_nodes(places, resources)
    check_storage(store)


def check_resources(resources: ResourcesConfig) -> None:
    """Reject a task that can never fit on a node of the connected cluster, present or added on demand.

    Raises:
        ConfigError: A task does not fit; the message has the task, its request and the nodes' resources.
    """
    added = [needs_of(node, 0) for node in resources.autoscaling]
    gpus = min(1, sum(node.get("GPU", 0) for node in live_nodes()) + resources.gpus_on_demand)
    for name in ("trial", "teacher", "export", "benchmark"):
        requested: TaskResources | TrialResources | None = getattr(resources, name)
        if requested is None:
            continue
        processes = requested.processes if isinstance(requested, TrialResources) else 1
        check_fits(f"resources.{name}", needs_of(requested, gpus), processes, added)


def check_storage(store: Store) -> None:
    """Reject a storage that a live node of the connected cluster cannot share with this process.

    Each node reads what this process wrote, and this process reads what each node wrote.

    Raises:
        ConfigError: Nodes cannot use the storage; the message has their names and the reason.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    nodes = {node["NodeID"]: _name(node) for node in ray.nodes() if node["Alive"]}
    if set(nodes) <= {here}:
        return
    quick = Store(store.url, min(store.retry_s, _PATIENCE_S))
    probe = f"{_PROBES}/{secrets.token_hex(8)}"
    quick.write(f"{probe}/{here}", here.encode())
    try:
        answers = _probe_nodes(quick, probe, here, [node for node in nodes if node != here])
        unseen = [node for node in answers if quick.read(f"{probe}/{node}") != node.encode()]
    finally:
        quick.delete(probe)
    problems = {node: answers[node] or "it reads other content than was written" for node in unseen}
    if not problems:
        return
    names = ", ".join(sorted({nodes[node] for node in problems}))
    if store.directory is not None:
        raise ConfigError(
            f"storage.path: {store} is a directory of one machine, {names} cannot access it; use s3://…, or a "
            f"directory that all nodes mount"
        )
    reason = next(iter(problems.values()))
    raise ConfigError(
        f"storage.path: {store} cannot be used from {names} ({reason}); "
        "give its nodes network access and credentials, or choose another storage with --storage DIR|URL"
    )


def _probe_nodes(store: Store, probe: str, here: str, nodes: list[str]) -> dict[str, str | None]:
    """Map each node's id to its error with the storage, or None; a node lost meanwhile is left out."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probed = {}
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        remote = ray.remote(_try_storage).options(num_cpus=0, max_retries=1, scheduling_strategy=strategy)
        probed[remote.remote(store, probe, here, node)] = node
    answered, late = ray.wait(list(probed), num_returns=len(probed), timeout=_ANSWER_WITHIN_S)
    answers: dict[str, str | None] = {probed[each]: "no response" for each in late}
    for each in answered:
        try:
            answers[probed[each]] = ray.get(each)
        except RayError as error:
            if any(node["Alive"] and node["NodeID"] == probed[each] for node in ray.nodes()):
                answers[probed[each]] = " ".join(str(error).split())
    return answers


def _try_storage(store: Store, probe: str, other: str, own: str) -> str | None:
    """Read, on a node, what another node wrote, then write a reply; return the error, if any."""
    try:
        if store.read(f"{probe}/{other}") != other.encode():
            return None
        store.write(f"{probe}/{own}", own.encode())
    except (DistiltuneError, OSError) as error:
        return " ".join(str(error.__cause__ or error).split())
    return None


def _name(node: dict[str, Any]) -> str:
    host, address = node.get("NodeManagerHostname"), node["NodeManagerAddress"]
    return f"{host} ({address})" if host and host != address else address
