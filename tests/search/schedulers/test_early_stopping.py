"""The rules that stop trials early, against plain references, and their behaviour over schedules of other lengths."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from distiltune.search.schedulers.asha import Asha
from distiltune.search.schedulers.base import CurveCache, value_at
from distiltune.search.schedulers.median import MedianRule


def curve(*values: float, of: int | None = None) -> list[list[float]]:
    """The first epochs of a schedule of ``of`` epochs."""
    return [[(epoch + 1) / (of or len(values)), value] for epoch, value in enumerate(values)]


def at(curves):
    """Every other trial's value at a fraction."""
    return lambda fraction: [value for each in curves if (value := value_at(each, fraction)) is not None]


@pytest.mark.parametrize("seed", range(5))
def test_cached_values_are_those_of_the_curves(seed):
    random = np.random.default_rng(seed)
    whole = {f"t{number}": curve(*random.random(2 + number % 5)) for number in range(9)}
    readings, reported = CurveCache(), {}
    while not reported or min(map(len, reported.values())) < 2 or len(reported) < 9:
        name = f"t{random.integers(9)}"
        reported[name] = whole[name][: len(reported.get(name, [])) + 1]
        readings.add(name, reported[name])
        fraction = reported[name][-1][0]
        others = at([each for other, each in reported.items() if other != name])(fraction)
        assert sorted(readings.values_of_others(name, fraction)) == sorted(others)


def test_a_curve_is_read_between_its_epochs_and_not_beyond_them():
    half = curve(0.2, 0.4, of=4)
    assert value_at(half, 0.375) == pytest.approx(0.3)
    assert value_at(half, 0.25) == 0.2
    assert value_at(half, 0.2) is None
    assert value_at(half, 0.6) is None
    assert value_at([], 0.5) is None


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("sign", [1, -1])
def test_asha_keeps_the_best_third_at_a_rung(seed, sign):
    random = np.random.default_rng(seed)
    own = curve(*random.random(1), of=4)
    others = [curve(*random.random(2), of=4) for _ in range(random.integers(0, 9))]
    at_rung = sign * np.array([own[0][1], *(other[0][1] for other in others)])
    rank = int((-at_rung).argsort(kind="stable").argsort(kind="stable")[0])  # 0: the best
    expected = rank >= math.ceil(len(at_rung) / 3)
    assert Asha(grace=0.25).stops(own, at(others), sign) == expected


def test_asha_decides_at_rungs_only():
    rule, better = Asha(grace=0.25, reduction_factor=2), [curve(*[0.9] * 8)] * 4
    stops = [rule.stops(curve(*[0.1] * epoch, of=8), at(better), 1) for epoch in range(1, 9)]
    assert stops == [False, True, False, True, False, False, False, False]


def test_schedules_of_other_lengths_are_compared_at_the_same_fraction():
    """At epoch 2 the short schedule is far ahead, since its rate has decayed; at half of its length, it is behind."""
    long = curve(0.2, 0.4, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9)
    short = curve(0.5, of=2)
    assert Asha(grace=0.4, reduction_factor=2).stops(short, at([long]), 1)
    assert not Asha(grace=0.4, reduction_factor=2).stops(long[:4], at([short + [[1.0, 0.6]]]), 1)


def test_a_trial_that_has_not_reached_the_fraction_is_not_compared():
    assert not Asha(grace=0.4).stops(curve(0.1, of=2), at([curve(0.9, of=4)] * 5), 1)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("sign", [1, -1])
def test_median_stops_what_is_below_the_median_of_the_others(seed, sign):
    random = np.random.default_rng(seed)
    own = curve(*random.random(2), of=4)
    others = [curve(*random.random(3), of=4) for _ in range(5)]
    best = max(sign * value for _, value in own)
    expected = best < np.median([sign * other[1][1] for other in others])
    assert MedianRule().stops(own, at(others), sign) == expected


def test_median_waits_for_its_grace_and_for_other_trials():
    low, high = curve(0.1, of=4), at([curve(0.9, 0.9, of=4)] * 4)
    assert MedianRule().stops(low, high, 1)
    assert not MedianRule(grace=0.3).stops(low, high, 1)
    assert not MedianRule(min_trials=5).stops(low, high, 1)


def trial(name: str, last: dict | None = None):
    return SimpleNamespace(trial_id=name, last_result=last)


def decision(scheduler, name: str, values: list[list[float]], **more) -> str:
    return scheduler.on_trial_result(None, trial(name), {"progress": values[-1][0], "curve": values, **more})


def test_the_scheduler_stops_in_tune_and_is_restored_from_the_last_reports():
    from distiltune.search.schedulers.tune_schedulers import EarlyStoppingScheduler

    scheduler = EarlyStoppingScheduler(Asha(grace=0.25), "max")
    for number in range(3):
        assert decision(scheduler, f"good{number}", curve(0.8 + number / 10, 0.9)) == "CONTINUE"
    assert decision(scheduler, "bad", curve(0.1, of=2)) == "STOP"
    assert decision(scheduler, "bad", curve(0.1, 0.1)) == "CONTINUE"  # the last epoch ends by itself
    assert decision(scheduler, "worse", curve(0.0, of=2), failure="nan") == "CONTINUE"
    slow = curve(1.1, of=2)
    assert decision(scheduler, "slow", slow) == "CONTINUE"
    for number in range(4):
        assert decision(scheduler, f"better{number}", curve(1.2 + number / 10, of=2)) == "CONTINUE"
    assert decision(scheduler, "slow", slow) == "CONTINUE", "judged already, before its worker was lost"
    restored = EarlyStoppingScheduler(Asha(grace=0.25), "max")
    for number in range(3):
        restored.on_trial_add(None, trial(f"good{number}", {"curve": curve(0.8 + number / 10, 0.9)}))
    restored.on_trial_add(None, trial("new"))
    assert decision(restored, "bad", curve(0.1, of=2)) == "STOP"
    assert decision(restored, "fine", curve(1.5, of=2)) == "CONTINUE"


def test_the_trial_with_the_lowest_number_that_waits_is_next():
    from distiltune.search.schedulers.tune_schedulers import InOrderScheduler

    def live(number: int, status: str):
        return SimpleNamespace(config={"number": number}, status=status)

    trials = {3: live(3, "PENDING"), 1: live(1, "RUNNING"), 2: live(2, "PENDING"), 0: live(0, "PAUSED")}
    controller: Any = SimpleNamespace(get_live_trials=lambda: trials.values())
    assert InOrderScheduler().choose_trial_to_run(controller) is trials[2]
    del trials[2], trials[3]
    assert InOrderScheduler().choose_trial_to_run(controller) is None
