"""Detect timings that other processes disturbed, and repeat them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

MOST_WAITING = 0.02
"""Largest share of a timing during which the process may have waited for a processor."""
NUM_TRIES = 3
_THREADS = Path("/proc/self/task")
_LONGEST_PAUSE_S = 2.0  # before a timing is repeated
_PAUSES_PER_TIMING = 20  # length of that pause as a multiple of the timing's

_log = logging.getLogger(__name__)
_Timed = TypeVar("_Timed")


def waiting_seconds() -> float | None:
    """Return how long the threads of this process were ready to run but waited for a processor, in seconds.

    Linux counts it for each thread (``schedstat``, second value, in ns); None where it does not.
    """
    try:
        counted = [(thread / "schedstat").read_text().split()[1] for thread in _THREADS.iterdir()]
    except (OSError, IndexError):
        return None
    return sum(map(int, counted)) / 1e9


def time_undisturbed(
    what: str, measure: Callable[[], _Timed], *, num_threads: int = 1
) -> tuple[_Timed, float | None]:
    """Measure, and repeat it while the process had to wait for a processor, up to three times in all.

    The pause before each repetition is 20 times as long as the timing, at most 2 s.

    Args:
        what: Name of the measurement, for the log.
        measure: Measures once.
        num_threads: Number of threads that compute.

    Returns:
        The measurement that waited least, and the share of its time that a thread waited, 0 to 1; None where that is
        not known.
    """
    best: tuple[_Timed, float | None] | None = None
    for attempt in range(1, NUM_TRIES + 1):
        before, began = waiting_seconds(), time.monotonic()
        timed = measure()
        after, seconds = waiting_seconds(), time.monotonic() - began
        if before is None or after is None:
            return timed, None
        share = max(0.0, after - before) / max(seconds * num_threads, 1e-9)
        if best is None or share < (best[1] or 0.0):
            best = timed, share
        if share <= MOST_WAITING:
            break
        _log.info("%s: waited %.0f %% of the time for a processor (attempt %d)", what, 100 * share, attempt)
        if attempt < NUM_TRIES:
            time.sleep(min(_LONGEST_PAUSE_S, _PAUSES_PER_TIMING * seconds))
    assert best is not None, "it was measured at least once"
    return best
