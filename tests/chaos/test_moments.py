"""A search is hit at random moments by each kind of fault, and gives the same results each time.

``CHAOS_RESULTS`` names a file to which each moment adds a line of JSON, and from which ``table.py`` makes a table;
``CHAOS_MOMENTS`` is the number of moments of each fault (20), or their range: ``5-9``.
"""

from __future__ import annotations

import json
import os
import random
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from checks import check, weights_of
from faults import (
    BitFlipped,
    DiskFull,
    DriverKilled,
    Grounds,
    HeadKilled,
    RayletKilled,
    StorageAway,
    Truncated,
    WorkerKilled,
)

KINDS: dict[str, type[Grounds]] = {
    "worker": WorkerKilled,
    "driver": DriverKilled,
    "raylet": RayletKilled,
    "head": HeadKilled,
    "disk": DiskFull,
    "storage": StorageAway,
    "truncated": Truncated,
    "flipped": BitFlipped,
}
SEED = 7
CHECKPOINT_EVERY_S = (0.0, 0.0, 0.5, 1e6)
"""``storage.checkpoint_every_s``: all epochs, one or several in a second, or only the best and the last."""
MOST_LATE = 5
"""How often a moment after the end of the search is drawn again, from the time before it."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


def moments() -> tuple[int, range]:
    """Return the total number of moments of a fault, and those to run now."""
    given = os.environ.get("CHAOS_MOMENTS", "20")
    first, _, last = given.partition("-")
    return (20, range(int(first), int(last) + 1)) if last else (int(given), range(int(given)))


@dataclass
class Scene:
    """A test bed with the results of an undisturbed search on it.

    Attributes:
        kind: Kind of the fault.
        grounds: The test bed.
        reference: Results of that search, with its ``weights``.
        start_s: Seconds until a worker holds the first trial of that search.
        duration_s: Seconds from then to its last epoch.
    """

    kind: str
    grounds: Grounds
    reference: dict[str, Any]
    start_s: float
    duration_s: float


@pytest.fixture(scope="module", params=KINDS)
def scene(request, tmp_path_factory):
    with ExitStack() as stack:
        grounds = KINDS[request.param](tmp_path_factory.mktemp(request.param), stack)
        for _ in range(2):  # the first one is slow, so moments drawn by its duration would be too late
            with grounds.store() as store:
                driver = grounds.start(store)
                began = driver.wait_began()
                grounds.wait_for_worker(driver)
                first = time.time()
                found = grounds.finish(driver)
                last = max(trial["ended"] for trial in found["outcome"]["trials"])
                start_s, duration_s = first - began, last - first
                found["weights"] = weights_of(store, found["outcome"]["trials"])
        assert all(found["weights"].values())
        yield Scene(request.param, grounds, found, start_s, duration_s)


@pytest.mark.parametrize("number", moments()[1])
def test_a_search_that_is_hit_reaches_its_end(scene, number):
    dice = random.Random(f"{SEED}-{scene.kind}-{number}")
    line: dict[str, Any] = {"fault": scene.kind, "number": number, "of_s": round(scene.duration_s, 2)}
    # Of its own, so that the other draws of a moment stay as they were.
    every_s = random.Random(f"{SEED}-{scene.kind}-{number}-checkpoints").choice(CHECKPOINT_EVERY_S)
    scene.grounds.checkpoint_every_s = line["checkpoint_every_s"] = every_s
    began = time.monotonic()
    try:
        at_s = draw(scene, number, dice)
        while not hit(scene, number, at_s, dice, line):
            line["late"] = line.get("late", 0) + 1
            assert line["late"] < MOST_LATE, line
            at_s *= dice.random()  # earlier, since this machine has become faster since it was timed
    except BaseException as error:
        line["error"] = f"{type(error).__name__}: {error}"[:2000]
        raise
    finally:
        line["seconds"] = round(time.monotonic() - began, 1)
        record(line)


def hit(scene: Scene, number: int, at_s: float, dice: random.Random, line: dict[str, Any]) -> bool:
    """Disturb a search and check it; return False if it had ended before."""
    grounds = scene.grounds
    with grounds.store() as store:
        line["at_s"] = round(at_s, 2)
        driver = grounds.start(store, **grounds.driver_options(number))
        driver.wait_began()
        if at_s >= 0:
            grounds.wait_for_worker(driver)
        time.sleep(at_s if at_s >= 0 else scene.start_s + at_s)
        disturbed = grounds.disturb(store, driver, number, dice)
        every_s = grounds.checkpoint_every_s
        line["hit"] = disturbed.hit + (f", a checkpoint every {every_s:g} s" if every_s else "")
        line["saved"] = sorted(sight.saved for sight in disturbed.before.values())
        line["checks"] = check(
            store, disturbed.found, scene.reference, disturbed.before, all_points=grounds.all_points
        )
    wrong = {name: result for name, result in line["checks"].items() if result != "ok"}
    assert not wrong, line
    return not disturbed.late


def draw(scene: Scene, number: int, dice: random.Random) -> float:
    """Draw a moment from the ``number``-th of equal parts, in seconds after the first trial has its worker."""
    total = moments()[0]
    num_before = round(scene.grounds.from_start * total)
    if number < num_before:
        return -scene.start_s * dice.uniform(0.05, 1)
    return (number - num_before + dice.random()) / (total - num_before) * scene.duration_s


def record(line: dict[str, Any]) -> None:
    path = os.environ.get("CHAOS_RESULTS")
    if path:
        with Path(path).open("a") as file:
            file.write(json.dumps(line) + "\n")
