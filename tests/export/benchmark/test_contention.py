"""Timings on a busy machine are repeated, and marked where they remain uncertain."""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from distiltune.export.benchmark import contention
from distiltune.export.benchmark.contention import MOST_WAITING, NUM_TRIES, time_undisturbed, waiting_seconds


def counted(
    monkeypatch: pytest.MonkeyPatch, waits: list[float | None], seconds: float = 1.0
) -> tuple[Callable[[], int], list[float]]:
    """Return a measurement that takes ``seconds`` and waits as given, and the list of the pauses between its calls."""
    clock = {"now": 0.0, "waited": 0.0}
    given: Iterator[float | None] = iter(waits)
    pauses: list[float] = []
    num_measured = itertools.count(1)

    def measure() -> int:
        clock["now"] += seconds
        clock["waited"] += next(given) or 0.0
        return next(num_measured)

    monkeypatch.setattr(contention.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(contention.time, "sleep", pauses.append)
    monkeypatch.setattr(contention, "waiting_seconds", lambda: None if None in waits else clock["waited"])
    return measure, pauses


def run(
    monkeypatch: pytest.MonkeyPatch, waits: list[float | None], **options: int
) -> tuple[int, float | None]:
    measure, _ = counted(monkeypatch, waits)
    return time_undisturbed("a row", measure, **options)


def test_a_quiet_machine_is_measured_once(monkeypatch) -> None:
    assert run(monkeypatch, [MOST_WAITING / 2]) == (1, pytest.approx(MOST_WAITING / 2))


def test_a_disturbed_timing_is_repeated_until_one_is_quiet(monkeypatch) -> None:
    assert run(monkeypatch, [0.5, 0.001]) == (2, pytest.approx(0.001))


def test_of_disturbed_timings_the_least_disturbed_is_kept(monkeypatch) -> None:
    assert run(monkeypatch, [0.5, 0.2, 0.4]) == (2, pytest.approx(0.2))
    assert NUM_TRIES == 3


@pytest.mark.parametrize(
    ("seconds", "pause"), [(0.001, 0.02), (0.05, 1.0), (0.1, 2.0), (30.0, 2.0)], ids="{}s".format
)
def test_the_pause_before_a_repetition_is_in_proportion_to_the_timing(monkeypatch, seconds, pause) -> None:
    measure, pauses = counted(monkeypatch, [seconds] * NUM_TRIES, seconds)
    time_undisturbed("a row", measure)
    assert pauses == [pytest.approx(pause)] * (NUM_TRIES - 1)


def test_the_wait_is_a_share_of_all_threads(monkeypatch) -> None:
    assert run(monkeypatch, [0.03], num_threads=2) == (1, pytest.approx(0.015))


def test_where_nothing_is_counted_it_is_measured_once(monkeypatch) -> None:
    assert run(monkeypatch, [None]) == (1, None)


@pytest.mark.skipif(waiting_seconds() is None, reason="this system does not count it")
def test_a_process_that_shares_its_processor_is_seen_to_wait() -> None:
    allowed = os.sched_getaffinity(0)
    one = {min(allowed)}
    os.sched_setaffinity(0, one)
    try:
        # It inherits the single processor.
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            time.sleep(0.2)
            before, began = waiting_seconds(), time.monotonic()
            while time.monotonic() - began < 0.5:
                pass
            after = waiting_seconds()
        finally:
            other.kill()
            other.wait()
    finally:
        os.sched_setaffinity(0, allowed)
    assert before is not None and after is not None
    assert after - before > 0.1
