"""Measure the peak memory of this process."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_memory_mb() -> float:
    """Return the peak memory of this process, in bytes / 2**20.

    ``getrusage`` alone would include the *parent's* memory when it started this process, because Linux keeps
    the value across ``exec``; the process's own high-water mark is read where available.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource  # absent on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024
