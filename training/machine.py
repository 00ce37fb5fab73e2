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
_TIMEOUT_S = 20.0
# Files of a control group (version 2, then 1): its memory limit, the memory in use, statistics, and the name of the
# statistic that counts reclaimable cache.
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
    """Return the bytes of memory available to this process, within the limits of its container.

    Where the system does not report available memory, half of all memory is assumed.

    Args:
        proc: Mount point of the proc file system.
        cgroup: Mount point of the control groups.
    """
    try:
        available = _number_of((proc / "meminfo").read_text(encoding="ascii"), "MemAvailable:") * 1024
    except (OSError, ValueError):
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    for limit, used, stat, cached in _CGROUPS:
        try:
            most, current = (int((cgroup / name).read_text(encoding="ascii")) for name in (limit, used))
            reclaimable = _number_of((cgroup / stat).read_text(encoding="ascii"), cached)
        except (OSError, ValueError):  # there is no such file, or no limit
            continue
        available = min(available, max(0, most - current + reclaimable))
    return available


def _number_of(text: str, name: str) -> int:
    """Return the number after a name at the start of a line; raise ``ValueError`` if there is none."""
    for line in text.splitlines():
        first, *values = line.split() or [""]
        if first == name and values:
            return int(values[0])
    raise ValueError(f"{name} is missing")


@cache
def gpus() -> tuple[Gpu, ...]:
    """Return all GPUs of this machine, including those that this process may not use; empty without a driver.

    This runs ``nvidia-smi``, so it neither loads torch nor opens a CUDA context.
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
            timeout=_TIMEOUT_S,
        )
        return _parse_gpus(done.stdout)
    except (OSError, subprocess.SubprocessError, ElementTree.ParseError, ValueError):
        return ()


def _parse_gpus(text: str) -> tuple[Gpu, ...]:
    """Parse the XML of ``nvidia-smi -q -x``."""
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
    """Convert text like ``143771 MiB`` to GiB; 0 if it has no number, as for a GPU that shares system memory."""
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
