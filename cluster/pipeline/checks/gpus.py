"""Check that PyTorch can use the GPUs that Ray counts, on every node of the connected cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ....errors import ConfigError
from ....search.trial.device import why_unavailable
from ...specification.resources import ResourcesConfig
from .targets import on_gpu

_ANSWER_WITHIN_S = 90.0  # includes importing torch, and a driver that is slow to fail
_PROBE = (
    "import json, torch; "
    "print(json.dumps([torch.__version__, torch.version.cuda, "
    "torch.cuda.device_count() if torch.cuda.is_available() else 0]))"
)
NO_RESPONSE = "no response"
"""Answer of a node where PyTorch or the driver that it asks does not answer in time."""
_TASKS = ("trial", "teacher", "export", "benchmark")


def check_gpus(resources: ResourcesConfig, places: Sequence[str] = ()) -> None:
    """Reject a cluster with GPUs that PyTorch cannot use on their node, where a task of the job may get one.

    Ray counts GPUs by their driver. Without this check a task on such a node would compute on the CPU.

    Args:
        resources: The section ``resources``.
        places: ``benchmark.targets``.

    Raises:
        ConfigError: PyTorch on a node is built for CPUs alone, sees fewer GPUs than Ray, or the driver does not answer.
    """
    import ray

    tasks = (name for name in _TASKS if _may_use_gpu(resources, name))
    task = next(tasks, "benchmark" if on_gpu(places) else None)
    counts = {
        node["NodeID"]: (node["NodeManagerHostname"], int(node["Resources"]["GPU"]))
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("GPU", 0) >= 1
    }
    if task is None or not counts:
        return
    for node, answer in _answers(counts).items():
        host, num_gpus = counts[node]
        fault = fault_of(answer, num_gpus)
        if fault is not None:
            has = f"node {host} has {num_gpus} GPU{'s' if num_gpus > 1 else ''} by Ray's count"
            raise ConfigError(
                f"resources.{task}.gpu: {has}, but {fault}; to compute on its CPUs, start Ray there with "
                "CUDA_VISIBLE_DEVICES set to an empty text"
            )


def _may_use_gpu(resources: ResourcesConfig, name: str) -> bool:
    requested = getattr(resources, name)
    return requested is None or requested.gpus(1) > 0


def fault_of(answer: str, num_gpus: int) -> str | None:
    """Return what is wrong with the GPUs of a node, with the remedy, or None.

    Args:
        answer: Output of ``_PROBE`` on that node, or its error.
        num_gpus: GPUs that Ray counts there.
    """
    last = answer.strip().rpartition("\n")[2]
    if last == NO_RESPONSE:
        return (
            "NVIDIA's driver there does not answer PyTorch in time; check it with nvidia-smi, and restart the node if "
            "that does not answer either"
        )
    try:
        version, cuda, num_seen = json.loads(last)
    except (ValueError, TypeError):
        return f"PyTorch there does not start ({last or 'it printed nothing'}); reinstall it"
    if num_seen >= num_gpus:
        return None
    if num_seen == 0:
        return why_unavailable(version, cuda)
    return f"PyTorch {version} there sees {num_seen}; start its Ray with --gpus {num_seen}"


def _answers(nodes: Mapping[str, Any]) -> dict[str, str]:
    """Run ``ask_torch`` on each node, and return its answers by node id; a node lost meanwhile is left out."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    pending = {}
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        remote = ray.remote(ask_torch).options(num_cpus=0, max_retries=1, scheduling_strategy=strategy)
        pending[remote.remote()] = node
    answered, late = ray.wait(list(pending), num_returns=len(pending), timeout=2 * _ANSWER_WITHIN_S)
    answers = {pending[each]: NO_RESPONSE for each in late}
    for each in answered:
        try:
            answers[pending[each]] = ray.get(each)
        except RayError:
            continue
    return answers


def ask_torch() -> str:
    """Return what torch reports about this node's GPUs, from a short-lived process, so that no driver stays open."""
    environment = {**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": "0"}  # ask the driver itself, not NVML
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ANSWER_WITHIN_S,
        )
    except subprocess.TimeoutExpired:
        return NO_RESPONSE
    except (OSError, subprocess.SubprocessError) as error:
        return f"{type(error).__name__}: {error}"
    return done.stdout if done.returncode == 0 else done.stderr.strip().rpartition("\n")[2]
