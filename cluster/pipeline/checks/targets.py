"""Checks of ``benchmark.targets``: each needs a model, an installed runtime, and a GPU where it is measured."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ....errors import ConfigError
from ....export.benchmark import targets
from ....export.benchmark.targets import Target
from ....export.runtime.session.providers import mixed_installation
from ....export.variants import kinds
from ....search.driver.nodes import num_places
from ...session.ray_session import needs_of

if TYPE_CHECKING:
    from ...specification.config import JobConfig
    from ...specification.resources import ResourcesConfig

logger = logging.getLogger(__name__)

_ANSWER_WITHIN_S = 90.0  # including the start of a worker


def check_targets(config: JobConfig) -> None:
    """Reject a target on which no variant can be measured, or that this machine lacks if the job runs here.

    Raises:
        ConfigError: A target cannot be used; the message names it, what is missing and the remedy.
    """
    wanted = on_gpu(config.benchmark.targets)
    for target in wanted:
        _check_has_model(target, config.export.variants)
    if config.resources.address is None:
        for name, reason in missing_here([target.name for target in wanted]).items():
            raise _refused(name, reason)
        if wanted and _num_gpus() == 0:
            raise _refused(wanted[0].name, "this machine has no NVIDIA GPU whose driver answers")
    if not wanted and (reason := mixed_installation()) is not None:
        logger.warning("%s", reason)


def check_targets_on_nodes(places: Sequence[str], resources: ResourcesConfig) -> None:
    """Reject a target for which the connected cluster has no node with a GPU, or a node that lacks its packages.

    Args:
        places: ``benchmark.targets``.
        resources: The section ``resources``.

    Raises:
        ConfigError: As for :func:`check_targets`, with the name of the node.
    """
    import ray

    wanted = on_gpu(places)
    if not wanted or resources.address is None:  # the local Ray is this machine
        return
    needs = {**needs_of(resources.benchmark, 0)}
    needs["GPU"] = needs["GPU"] or 1
    nodes = [node for node in ray.nodes() if node["Alive"] and num_places(node["Resources"], needs)]
    added = any(num_places(needs_of(each, 0), needs) for each in resources.autoscaling)
    if not nodes and not added:
        raise _refused(
            wanted[0].name,
            "no node of the cluster has a GPU and what resources.benchmark asks for; attach to another cluster, or "
            "list the node type that it adds on demand in resources.autoscaling",
        )
    for node, missing in _ask(nodes, [target.name for target in wanted]).items():
        for name, reason in missing.items():
            raise _refused(name, f"on {node} {reason}")


def on_gpu(places: Sequence[str]) -> list[Target]:
    """Return those entries of ``benchmark.targets`` that need a GPU."""
    return [targets.get(place) for place in places if place != targets.CPU]


def missing_here(names: Sequence[str]) -> dict[str, str]:
    """Map each target whose packages this process lacks to the reason: what is missing, and the remedy."""
    reasons = {name: targets.get(name).missing() for name in names}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _check_has_model(target: Target, variants: Sequence[str]) -> None:
    fitting = [each.name for each in kinds.variants() if target.name in each.gpu_targets]
    if fitting and not set(fitting) & set(variants):
        raise _refused(
            target.name,
            f"export.variants has none that is measured there; add one of {', '.join(fitting)}",
        )


def _refused(name: str, reason: str) -> ConfigError:
    return ConfigError(f"benchmark.targets: {name} given, but {reason}")


def _num_gpus() -> int:
    """Return the number of NVIDIA GPUs that the driver of this machine shows to this process."""
    count = ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def _ask(nodes: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Map the host of each node that answers to the targets whose packages it lacks."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    pending = {}
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        remote = ray.remote(missing_here).options(num_cpus=0, max_retries=1, scheduling_strategy=strategy)
        pending[remote.remote(list(names))] = node.get("NodeManagerHostname") or node["NodeManagerAddress"]
    answered, _ = ray.wait(list(pending), num_returns=len(pending), timeout=_ANSWER_WITHIN_S)
    answers = {}
    for each in answered:
        try:
            answers[pending[each]] = ray.get(each)
        except RayError as error:  # a lost node is no reason to refuse the job
            logger.warning("benchmark.targets: %s was not checked: %s", pending[each], error)
    return answers
