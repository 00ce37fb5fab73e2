"""How many trials share a GPU, by its free memory, the CPUs of its node and measured throughput."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ...errors import RunFailedError

logger = logging.getLogger(__name__)

AUTO: Literal["auto"] = "auto"
"""Value in place of a number of GPUs per trial: as many trials share a GPU as it can serve."""

CONTEXT_BYTES = 600 * 2**20
"""Memory used by CUDA and its libraries in each process, outside of PyTorch's allocator."""
USABLE = 0.92  # share of a GPU's free memory; the rest is lost to fragmentation
# An estimated 85 % of a step is the host's time, so more trials than this would wait for the GPU.
_MOST_UNMEASURED = 8
_MOST_MEASURED = 64
# Relative throughput that a doubling must reach, since more parallel trials mean older results to learn from.
_LEAST_GAIN = 1.1


@dataclass(frozen=True)
class GpuMemory:
    """Memory of a GPU in bytes, as measured with one trial.

    Attributes:
        peak: Peak memory of the trial, including CUDA; None if a step did not fit.
        free: Free memory before the trial.
        total: Total memory.
        estimated: Estimate of the peak.
    """

    peak: int | None
    free: int
    total: int
    estimated: int


@dataclass(frozen=True)
class Packing:
    """How trials share GPUs.

    Attributes:
        gpus: GPUs of a trial, above 0 and at most 1.
        memory_share: Share of a GPU's total memory that PyTorch may allocate for a trial; CUDA's own is added.
    """

    gpus: float
    memory_share: float = 1.0


def num_by_memory(memory: GpuMemory, batch_size: int) -> int:
    """Return how many trials fit in a GPU's memory at a time.

    Args:
        memory: Measurement of one trial.
        batch_size: Texts of its steps, for the message.

    Raises:
        RunFailedError: Not even one trial fits.
    """
    remedy = "lower training.batch_size or training.max_length, or choose a smaller student"
    free = f"a GPU's {memory.free / 2**20:,.0f} MiB that are free"
    if memory.peak is None:
        raise RunFailedError(
            f"a training step of {batch_size} texts does not fit in {free} (estimated: "
            f"{memory.estimated / 2**20:,.0f} MiB); {remedy}"
        )
    num = int(USABLE * memory.free / memory.peak)
    if num < 1:
        raise RunFailedError(f"a trial needs {memory.peak / 2**20:,.0f} MiB of {free}; {remedy}")
    return num


def num_by_cpus(nodes: Sequence[Mapping[str, float]], cpus_per_trial: float) -> int:
    """Return for how many trials per GPU every node with GPUs has CPUs; at least 1.

    Args:
        nodes: Resources of the nodes, by Ray's names.
        cpus_per_trial: CPUs of a trial.
    """
    found = [
        int(node.get("CPU", 0) / int(node["GPU"]) / cpus_per_trial + 1e-4)
        for node in nodes
        if node.get("GPU", 0) >= 1
    ]
    return max(1, min(found, default=1))


def limit_of(by_memory: int, by_cpus: int, *, measured: bool) -> int:
    """Return the maximum number of trials on a GPU; it is lower if their throughput is not ``measured``."""
    return max(1, min(by_memory, by_cpus, _MOST_MEASURED if measured else _MOST_UNMEASURED))


def fraction_of(num: int) -> float:
    """Return each trial's share of a GPU, rounded down to the ten-thousandths that Ray counts in."""
    return math.floor(1e4 / num) / 1e4


def settled(requested: float, memories: Sequence[GpuMemory], by_cpus: int, batch_size: int) -> Packing:
    """Return how trials share GPUs, before throughput is measured.

    Args:
        requested: Requested GPUs per trial, above 0 and below 1; 0 for as many trials as memory and CPUs allow.
        memories: Measurement of a trial of each student; not empty.
        by_cpus: Result of ``num_by_cpus``.
        batch_size: Texts of the measured steps.

    Raises:
        RunFailedError: Not even one trial of some student fits.
    """
    fitting = min(num_by_memory(each, batch_size) for each in memories)
    if not requested:
        return packing_of(limit_of(fitting, by_cpus, measured=False), memories)
    wanted = math.floor(1 / requested + 1e-6)
    if wanted <= fitting:
        return Packing(requested, _memory_share(wanted, memories))
    logger.warning(
        "%d trials share a GPU instead of %d, as resources.trial.gpu %g requests: a trial needs up to %s MiB of %s MiB",
        fitting,
        wanted,
        requested,
        f"{max(each.peak or 0 for each in memories) / 2**20:,.0f}",
        f"{min(each.free for each in memories) / 2**20:,.0f}",
    )
    return packing_of(fitting, memories)


def packing_of(num: int, memories: Sequence[GpuMemory]) -> Packing:
    """Return the packing of a number of trials on a GPU."""
    return Packing(fraction_of(num), _memory_share(num, memories))


def _memory_share(num: int, memories: Sequence[GpuMemory]) -> float:
    """Return the share of a GPU's total memory that PyTorch may allocate for each of ``num`` trials.

    With CUDA's own memory, which PyTorch does not limit, all of them fit in the free memory.
    """
    return min((USABLE * each.free / num - CONTEXT_BYTES) / each.total for each in memories)


def doublings(limit: int) -> Iterator[int]:
    """Yield 1, 2, 4, … up to a limit, and the limit itself."""
    num = 1
    while num < limit:
        yield num
        num *= 2
    yield limit


def pays(rates: Mapping[int, float]) -> bool:
    """Return whether the last number of trials is worth it: at least 10 % faster than the one before.

    Args:
        rates: Steps per second of all trials together, by the number of trials, in ascending order.
    """
    values = list(rates.values())
    return len(values) < 2 or values[-1] >= _LEAST_GAIN * values[-2]


def fastest(rates: Mapping[int, float]) -> int:
    """Return the largest number of trials on a GPU that was worth it.

    Args:
        rates: As in ``pays``; measured until a number was not worth it, or up to the limit.
    """
    numbers = list(rates)
    return numbers[-1] if pays(rates) else numbers[-2]


def rate_together(times: Sequence[Sequence[float]]) -> float:
    """Return the total steps per second of parallel processes, over the time in which all of them were running.

    Args:
        times: End time of each step, for each process, in seconds of a common clock.

    Returns:
        The rate; 0 if the processes never ran at the same time.
    """
    if not all(len(each) > 1 for each in times):
        return 0.0
    start, end = max(each[0] for each in times), min(each[-1] for each in times)
    if end <= start:
        return 0.0
    return sum(start < moment <= end for each in times for moment in each) / (end - start)
