"""The nodes of a Ray cluster: the environment of their workers, and how many tasks they can run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...errors import ConfigError

# Environment of the workers, for `ray.init(runtime_env={"env_vars": RAY_WORKER_ENV})`.
RAY_WORKER_ENV = {
    # Actors are reused from trial to trial, which saves the import of torch; a trial's thread may take some
    # time to exit.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    # torch then counts GPUs without initialising CUDA, so that a worker can be given its GPU afterwards.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
_NAMES = {"CPU": "CPUs", "GPU": "GPUs"}


def live_nodes() -> list[dict[str, float]]:
    """Return the resources of each node of the connected Ray that is alive."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def num_places(resources: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """Return how many tasks with the given needs a node or a whole cluster can run at a time."""
    # Ray counts in ten-thousandths: three times 0.1 is 0.3 there.
    return min(int(resources.get(kind, 0) / amount + 1e-4) for kind, amount in needs.items() if amount)


def check_fits(
    parameter: str,
    needs: Mapping[str, float],
    num_processes: int = 1,
    added: Sequence[Mapping[str, float]] = (),
) -> None:
    """Reject a task that no node of the connected Ray, existing or added on demand, can ever run.

    Args:
        parameter: The parameter that requests the resources, for the message.
        needs: Resources of each process, by Ray's resource names.
        num_processes: Processes of the task, which may run on several nodes.
        added: Nodes that the cluster adds on demand.

    Raises:
        ConfigError: No node fits; the message has the request and the nodes' resources.
    """
    nodes = live_nodes()
    places = sum(num_places(node, needs) for node in nodes)
    if places >= num_processes or any(num_places(node, needs) for node in added):
        return
    given, found = _shown(needs, needs), "no node has that much"
    if num_processes > 1:
        given, found = (
            f"{num_processes} processes of {given} each",
            f"the nodes have room for {places} of them",
        )
    shown = "; ".join(_shown(node, needs) for node in (*nodes, *added)) or "none"
    raise ConfigError(
        f"{parameter}: {given} given, but {found} (nodes: {shown}); lower it, attach to a larger cluster, or list "
        f"the node types that the cluster adds on demand in resources.autoscaling"
    )


def _shown(amounts: Mapping[str, float], kinds: Mapping[str, float]) -> str:
    parts = [f"{amounts.get(kind, 0):g} {_NAMES.get(kind, kind)}" for kind in kinds]
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
