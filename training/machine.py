"""The GPUs of this machine, and the one that this process computes on."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any
from xml.etree import ElementTree

_COMMAND = "nvidia-smi"
_ANSWER_WITHIN_S = 20.0


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
