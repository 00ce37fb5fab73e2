"""The cores, free memory and GPUs of this machine, and the GPU that this process computes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

_COMMAND = "nvidia-smi"
_ANSWER_WITHIN_S = 20.0
# Of a control group, version 2 and 1: the limit of its memory, what it has, and the part of that which is a cache.
_CGROUPS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver describes it.

    Attributes:
        name: Product name, such as ``NVIDIA H200``.
        memory_gib: Memory in GiB.
        driver: Version of the driver.
        cuda: Newest CUDA version that the driver supports.
    """

    name: str
    memory_gib: float
    driver: str
    cuda: str

    def __str__(self) -> str:
        return f"{self.name} ({self.memory_gib:g} GiB), driver {self.driver}, CUDA {self.cuda}"

    def to_json(self) -> dict[str, Any]:
        """Return the attributes as JSON values."""
        return asdict(self)


def num_usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes of memory that are available to this process, also where a container limits them.

    On a system that does not tell, half of all memory.

    Args:
        proc: Where the kernel describes the system.
        cgroup: Where it describes the container's limits.
    """
    try:
        available = _number_of((proc / "meminfo").read_text(encoding="ascii"), "MemAvailable:") * 1024
    except (OSError, ValueError):
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    for limit, used, stat, cached in _CGROUPS:
        try:
            most, current = (int((cgroup / name).read_text(encoding="ascii")) for name in (limit, used))
            idle = _number_of((cgroup / stat).read_text(encoding="ascii"), cached)
        except (OSError, ValueError):  # there is no such file, or no limit
            continue
        available = min(available, max(0, most - current + idle))
    return available


def _number_of(text: str, name: str) -> int:
    """Return the number behind a name that begins a line; raises ``ValueError`` where there is none."""
    for line in text.splitlines():
        first, *values = line.split() or [""]
        if first == name and values:
            return int(values[0])
    raise ValueError(f"{name} is missing")


@cache
def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs of this machine, also those that this process may not use; none where no driver answers.

    ``nvidia-smi`` is asked, so this neither loads torch nor opens a CUDA context.
    """
    if shutil.which(_COMMAND) is None:
        return ()
    try:
        done = subprocess.run(
            [_COMMAND, "-q", "-x"],
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
            timeout=_ANSWER_WITHIN_S,
        )
        return _parsed(done.stdout)
    except (OSError, subprocess.SubprocessError, ElementTree.ParseError, ValueError):
        return ()


def _parsed(text: str) -> tuple[Gpu, ...]:
    """Return the GPUs in the XML of ``nvidia-smi -q -x``."""
    log = ElementTree.fromstring(text)
    driver, cuda = (log.findtext(name, "unknown").strip() for name in ("driver_version", "cuda_version"))
    return tuple(
        Gpu(
            name=gpu.findtext("product_name", "unknown").strip(),
            memory_gib=_gib(gpu.findtext("fb_memory_usage/total", "")),
            driver=driver,
            cuda=cuda,
        )
        for gpu in log.findall("gpu")
    )


def _gib(text: str) -> float:
    """Return the GiB of a text like ``143771 MiB``; 0 where it has no number, as a GPU that shares its memory."""
    number = text.split()[0] if text.split() else ""
    return round(int(number) / 1024, 1) if number.isdigit() else 0.0


def num_visible_gpus() -> int:
    """Return the number of GPUs that torch can use in this process."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def describe_device(*, use_gpu: bool) -> str:
    """Describe what this process computes on: ``CPU``, or ``NVIDIA H200 (139.8 GiB), driver 570.86, CUDA 12.8``.

    The CUDA version is that of torch. With a GPU, this opens a CUDA context.
    """
    if not use_gpu:
        return "CPU"
    import torch

    index = torch.cuda.current_device()
    found = torch.cuda.get_device_properties(index)
    driver = next((each.driver for each in gpus() if each.name == found.name), "unknown")
    memory_gib = round(found.total_memory / 2**30, 1)
    return str(Gpu(found.name, memory_gib, driver, torch.version.cuda or "unknown"))
