"""The time of a search: trials drawn at random from its space, started one after another on its places."""

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
"""Returns the seconds of a trial with these arguments that trains this share (0 to 1) of its epochs."""


@dataclass(frozen=True)
class Span:
    """An amount that is not known exactly: low and high, between which it lies nine times in ten, and its middle."""

    low: float
    middle: float
    high: float

    def plus(self, other: Span) -> Span:
        """Return the sum of both."""
        return Span(self.low + other.low, self.middle + other.middle, self.high + other.high)

    def capped(self, most: float) -> Span:
        """Return a span of which nothing is above a bound."""
        return Span(min(self.low, most), min(self.middle, most), min(self.high, most))

    def widened(self, share: float) -> Span:
        """Return a span that is wider by a share of both ends."""
        return Span(self.low * (1 - share), self.middle, self.high * (1 + share))

    @staticmethod
    def exact(value: float) -> Span:
        """Return a span of one value."""
        return Span(value, value, value)


def search_span(config: SearchConfig, num_trials: int, num_places: int, seconds: Seconds) -> Span:
    """Return the time of a search in seconds.

    The sampler's suggestions are not known before results are, so arguments are drawn at random, as its first trials'
    are; points are tried as given. With early stopping, each trial ends at its first opportunity, at a later one, or
    at its last epoch, with the probabilities of ``shares_of``; the low end is a search that stops as many as it can,
    the high end one that stops none. The budget is not considered.

    Args:
        config: The section ``search``.
        num_trials: Number of trials.
        num_places: Trials at a time.
        seconds: Time of a trial.
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
    """Return the shares of its epochs that a trial may train, each with its probability.

    Asynchronous halving lets one in ``reduction_factor`` pass a rung; of another rule it is assumed that half of the
    trials end half-way.
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
    """Return the time in which tasks end that are started in order, each at the first free one of several places."""
    free = [0.0] * num_places
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def drawn(
    space: Mapping[str, Parameter], generator: random.Random, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return random arguments of a trial; ``given`` ones are kept."""
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
