"""A stopwatch that excludes the time in which this process waited for a processor."""

from __future__ import annotations

import time
from pathlib import Path

_THREADS = Path("/proc/self/task")
_totals = {"wall_s": 0.0, "own_s": 0.0}


class Stopwatch:
    """Measure the time of work in this process as if no other process used the processors.

    Linux counts how long each thread waited for a processor (``schedstat``, second value, in ns). Threads of one
    computation wait for one another, so it advances only while none of them waits. If their waits are independent,
    the share of that time is the product of the shares in which each thread does not wait. On systems without these
    counts, the wall time is returned.
    """

    def __init__(self) -> None:
        self._began, self._waited = time.perf_counter(), _waiting()

    def lap(self) -> float:
        """Return the undisturbed seconds since the last call, or since the stopwatch was created."""
        now, waited = time.perf_counter(), _waiting()
        wall = now - self._began
        own = undisturbed(wall, [each - self._waited.get(thread, 0.0) for thread, each in waited.items()])
        self._began, self._waited = now, waited
        _totals["wall_s"] += wall
        _totals["own_s"] += own
        return own


def undisturbed(wall_s: float, waited_s: list[float]) -> float:
    """Return the part of ``wall_s`` in which no thread waited, given the seconds that each thread waited."""
    share = 1.0
    for each in waited_s:
        share *= 1 - min(1.0, max(0.0, each) / max(wall_s, 1e-9))
    return wall_s * share


def waiting_share() -> float:
    """Return the share, 0 to 1, of all time measured in this process that it waited for a processor."""
    return 1 - _totals["own_s"] / _totals["wall_s"] if _totals["wall_s"] else 0.0


def _waiting() -> dict[str, float]:
    """Return how long each thread of this process has waited for a processor, in seconds."""
    found = {}
    try:
        for thread in _THREADS.iterdir():
            found[thread.name] = int((thread / "schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return {}
    return found
