"""Share GPUs among the trials of a search: measure trials on the cluster's GPUs, and record the result."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from ...errors import RunFailedError, first_line
from ...training.distillation.config import TrainingConfig
from ...training.distillation.losses.base import LOSS_TERMS, NEED_TEACHER_MODEL, section_paths
from ..config import SearchConfig
from ..space.space import fixed_values
from ..space.students import student_names
from ..trial.inputs import TrialInputs, TrialSettings
from ..trial.packing import (
    GpuMemory,
    Packing,
    doublings,
    fastest,
    fraction_of,
    limit_of,
    num_by_cpus,
    num_by_memory,
    packing_of,
    pays,
    rate_together,
    settled,
)
from .nodes import live_nodes

logger = logging.getLogger(__name__)

_TYPE = "accelerator_type:"  # prefix of Ray's resource that names the type of a node's GPUs
_BATCH_SIZES = ("batch_size", "per_device_train_batch_size")


def packing_key(experiment: str) -> str:
    """Return the key of the record of how a search's trials share GPUs."""
    return f"{experiment}-packing.json"


def share_gpus(
    requested: float | Literal["auto"],
    points: Sequence[Mapping[str, Any]],
    inputs: TrialInputs,
    settings: TrialSettings,
    cpus_per_trial: float,
    batch_size: int,
    *,
    measure_throughput: bool = False,
) -> Packing:
    """Determine how the trials of a search share GPUs, by measuring steps of its own trials on the cluster's GPUs.

    Memory is measured on one GPU of each type, and the type with room for the fewest trials decides for all.
    Throughput is measured on one GPU. The result is recorded next to the search, and used again when it is resumed on
    GPUs of the same types.

    Args:
        requested: Requested GPUs per trial, above 0 and below 1, or ``auto``.
        points: For each student, the arguments of the trial that takes the most memory.
        inputs: The texts and students.
        settings: Settings that all trials share.
        cpus_per_trial: CPUs of a trial.
        batch_size: Largest batch size of the space.
        measure_throughput: With ``auto``, also measure how many parallel trials are fastest.

    Raises:
        RunFailedError: Not even one trial fits.
    """
    nodes = [node for node in live_nodes() if node.get("GPU", 0) >= 1]
    share = requested if isinstance(requested, float | int) else 0.0
    if not nodes:
        logger.warning("there is no GPU yet, so how many trials fit on one was not measured")
        return Packing(share or 1.0)
    key = packing_key(settings.experiment)
    types = sorted({name for node in nodes for name in node if name.startswith(_TYPE)})
    record = settings.store.read_json(key)
    if record is not None and record["requested"] == requested and record["types"] == types:
        return Packing(record["gpus"], record["memory_share"])
    import ray

    from ..trial.gpu import measure_memory

    shared = ray.put(inputs)
    probe = ray.remote(num_gpus=1, num_cpus=1, max_retries=0)(measure_memory)
    probes = [probe.options(accelerator_type=name.removeprefix(_TYPE)) for name in types] or [probe]
    memories = _results([each.remote(point, shared, settings) for each in probes for point in points])
    by_cpus = num_by_cpus(nodes, cpus_per_trial)
    packing, rates = settled(share, memories, by_cpus, batch_size), {}
    if not share and measure_throughput:
        fitting = min(num_by_memory(each, batch_size) for each in memories)
        largest = points[max(range(len(memories)), key=lambda index: memories[index].peak or 0) % len(points)]
        limit = limit_of(fitting, by_cpus, measured=True)
        rates = _rates(limit, largest, shared, settings, memories, cpus_per_trial)
        packing = packing_of(fastest(rates), memories)
    found = {"rates": rates, "by_cpus": by_cpus, "memory": [asdict(each) for each in memories]}
    settings.store.write_json(key, {"requested": requested, "types": types, **asdict(packing), **found})
    return packing


def _results(sent: list[Any]) -> list[Any]:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(sent)
    except RayError as error:  # also a process that was killed, such as for its memory
        cause = error.cause if isinstance(error, RayTaskError) else None
        reason = cause if isinstance(cause, Exception) else error
        raise RunFailedError(
            f"how many trials fit on a GPU cannot be measured: {first_line(reason)}"
        ) from error


def _rates(
    limit: int,
    point: Mapping[str, Any],
    inputs: Any,
    settings: TrialSettings,
    memories: Sequence[GpuMemory],
    cpus_per_trial: float,
) -> dict[int, float]:
    """Measure the steps per second of 1, 2, 4, … trials on one GPU, until doubling no longer pays."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from ..trial.gpu import measure_steps

    node = next(node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0) >= 1)
    here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    rates: dict[int, float] = {}
    for num_trials in doublings(limit):
        # Ray fills a partly used GPU before it uses another one.
        remote = ray.remote(num_gpus=fraction_of(num_trials), num_cpus=cpus_per_trial, max_retries=0)
        measure: Any = remote(measure_steps).options(scheduling_strategy=here)
        own = replace(settings, gpu_share=packing_of(num_trials, memories).memory_share)
        meeting = ray.remote(num_cpus=0)(Meeting).remote(num_trials)
        sent = [measure.remote(point, inputs, own, meeting) for _ in range(num_trials)]
        rates[num_trials] = rate_together(_results(sent))
        if not pays(rates):
            break
    return rates


class Meeting:
    """An actor at which the processes of some trials wait until all are ready to train.

    Args:
        num_trials: Number of trials.
    """

    def __init__(self, num_trials: int) -> None:
        self._missing = num_trials
        self._all_here = asyncio.Event()

    async def arrive(self) -> None:
        """Wait until all have arrived."""
        self._missing -= 1
        if self._missing <= 0:
            self._all_here.set()
        await self._all_here.wait()


def largest_batch(config: SearchConfig, training: TrainingConfig) -> int:
    """Return the largest batch size of a search, in texts."""
    of_kinds = [training.of_kind(kind).batch_size for kind in (None, *training.by_kind)]
    fixed = [
        max(of_kinds),
        *(training.arguments[name] for name in _BATCH_SIZES if name in training.arguments),
    ]
    searched = [max(config.space[name].end_values()) for name in _BATCH_SIZES if name in config.space]
    return int(max([fixed[-1], *searched]))


def heaviest_trials(config: SearchConfig, training: TrainingConfig) -> list[dict[str, Any]]:
    """Return the arguments of the heaviest trial of each student: with the largest batch, and a teacher if any runs."""
    fixed = {name: value for name, value in fixed_values(config).items() if name not in _BATCH_SIZES}
    fixed["per_device_train_batch_size"] = largest_batch(config, training)
    for path in filter(section_paths().__contains__, config.space):
        fixed.setdefault(path, config.space[path].end_values()[-1])
    for path in (term.path() for term in LOSS_TERMS if term.needs & NEED_TEACHER_MODEL):
        # If it is 0 or conditional, the value of the section ``training`` may apply.
        if path in config.space and (heaviest := max(config.space[path].end_values())) > 0:
            fixed[path] = heaviest
    return [{**fixed, **student} for student in student_names(config).values()]
