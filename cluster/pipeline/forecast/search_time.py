"""Simulate the time of a search: random trials from its space, each started as soon as a place is free."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....search.config import SearchConfig
from ....search.parameters import Parameter
from ....search.space.space import by_condition

_NUM_SIMULATIONS = 200
_SEED = 0
Seconds = Callable[[Mapping[str, Any], float], float]
"""Seconds of a trial with given arguments that trains a given share (0 to 1) of its epochs."""


@dataclass(frozen=True)
class Span:
    """An uncertain amount: its median (``middle``), and the ends of its 90 % interval (``low``, ``high``)."""

    low: float
    middle: float
    high: float

    def plus(self, other: Span) -> Span:
        """Return the sum of both."""
        return Span(self.low + other.low, self.middle + other.middle, self.high + other.high)

    def capped(self, most: float) -> Span:
        """Return the span with all three values limited to ``most``."""
        return Span(min(self.low, most), min(self.middle, most), min(self.high, most))

    def widened(self, share: float) -> Span:
        """Return the span with its low end decreased, and its high end increased, by a share of itself."""
        return Span(self.low * (1 - share), self.middle, self.high * (1 + share))

    @staticmethod
    def exact(value: float) -> Span:
        """Return a span for an amount that is known exactly."""
        return Span(value, value, value)


def search_span(config: SearchConfig, num_trials: int, num_places: int, seconds: Seconds) -> Span:
    """Return the time of a search in seconds.

    The sampler's suggestions depend on results, so arguments are drawn at random, like those of its first trials;
    ``search.points`` are used as given. With early stopping, each trial ends after one of the shares of its epochs
    that ``shares_of`` returns, drawn with their probabilities. The low end is a search in which every trial stops at
    the first opportunity, the high end one in which none stops early. The budget is not considered.

    Args:
        config: The section ``search``.
        num_trials: Number of trials.
        num_places: Trials that run in parallel.
        seconds: Returns the time of a trial.
    """
    generator = random.Random(_SEED)
    shares = shares_of(config)
    totals: list[float] = []
    unstopped: list[float] = []
    stopped: list[float] = []
    for _ in range(_NUM_SIMULATIONS):
        trials = [drawn(config.space, generator, point) for point in _points(config, num_trials)]
        ends = generator.choices(
            [share for share, _ in shares], [weight for _, weight in shares], k=num_trials
        )
        for found, each in (
            (totals, ends),
            (unstopped, [1.0] * num_trials),
            (stopped, [min(shares)[0]] * num_trials),
        ):
            found.append(makespan([seconds(*trial) for trial in zip(trials, each, strict=True)], num_places))
    low, high = (stopped, unstopped) if len(shares) > 1 else (totals, totals)
    return Span(float(np.percentile(low, 5)), float(np.median(totals)), float(np.percentile(high, 95)))


def shares_of(config: SearchConfig) -> list[tuple[float, float]]:
    """Return the possible shares of its epochs that a trial trains, each with its probability.

    Asynchronous halving lets one in ``reduction_factor`` trials pass a rung. For other rules, half of the trials are
    assumed to end half-way between the grace period and the last epoch.
    """
    rule = config.scheduler
    if not rule.is_active:
        return [(1.0, 1.0)]
    grace, factor = getattr(rule, "grace", 0.5), getattr(rule, "reduction_factor", None)
    if factor is None:
        return [((grace + 1) / 2, 0.5), (1.0, 0.5)]
    found, left = [], 1.0
    while grace < 1:
        found.append((grace, left * (1 - 1 / factor)))
        left, grace = left / factor, grace * factor
    return [*found, (1.0, left)]


def makespan(seconds: Sequence[float], num_places: int) -> float:
    """Return the time until all tasks have ended, if each starts, in order, as soon as one of the places is free."""
    free = [0.0] * num_places
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def drawn(
    space: Mapping[str, Parameter], generator: random.Random, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Draw a trial's arguments at random, except for the ``given`` ones."""
    values: dict[str, Any] = {}
    for name in by_condition(space):
        if space[name].applies(values):
            values[name] = given[name] if name in given else _random(space[name], generator)
    return values


def _random(parameter: Parameter, generator: random.Random) -> Any:
    if parameter.type not in ("float", "int"):
        return generator.choice(parameter.end_values())
    low, high = parameter.end_values()
    logarithmic = getattr(parameter, "log", False)
    if parameter.type == "int" and not logarithmic:
        return generator.randint(low, high)
    value = (
        math.exp(generator.uniform(math.log(low), math.log(high)))
        if logarithmic
        else generator.uniform(low, high)
    )
    return round(value) if parameter.type == "int" else value


def _points(config: SearchConfig, num_trials: int) -> list[Mapping[str, Any]]:
    """Return the given arguments of each trial."""
    points: list[Mapping[str, Any]] = [*config.points[:num_trials]]
    return [*points, *({} for _ in range(num_trials - len(points)))]
