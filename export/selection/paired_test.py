"""Two classifiers on the same texts: the difference of their accuracies, with its confidence limits."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

_STEPS = 60  # of bisection: 2 / 2**60 is below what a float can tell apart


@dataclass(frozen=True)
class PairedDifference:
    """How much more accurate the first of two classifiers is on N texts that both saw.

    Attributes:
        difference: accuracy of the first less that of the second, a fraction.
        low, high: its lower and its upper limit; each holds with ``confidence`` by itself.
        confidence: one-sided, a fraction.
        only_first, only_second: texts that only this one got right.
        num_texts: N.
        p_value: of McNemar's exact test that both are right equally often, two-sided.
    """

    difference: float
    low: float
    high: float
    confidence: float
    only_first: int
    only_second: int
    num_texts: int
    p_value: float

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return asdict(self)


def compare_paired(first: np.ndarray, second: np.ndarray, *, confidence: float) -> PairedDifference:
    """Compare two classifiers.

    Args:
        first: bool[N], which texts the first got right.
        second: bool[N], the same of the second.
        confidence: one-sided, of each limit; above 0.5, below 1.
    """
    b, c, n = int((first & ~second).sum()), int((~first & second).sum()), len(first)
    low, high = score_limits(b, c, n, confidence=confidence)
    return PairedDifference((b - c) / n, low, high, confidence, b, c, n, mcnemar_p_value(b, c))


def score_limits(b: int, c: int, n: int, *, confidence: float) -> tuple[float, float]:
    """Limits of p_b - p_c, where b and c of n pairs are discordant one way and the other.

    Tango's asymptotic score limits: the differences d at which |T(d)| is the normal quantile z, with
    T(d) = (b - c - n·d) / sqrt(n·(2·q + d·(1 - d))) and q the likeliest p_c under d (Tango, "Equivalence test and
    confidence interval for the difference in proportions for the paired-sample design", Statistics in Medicine 17,
    1998). Fit for a non-inferiority test, and neither empty nor of no width where b = c = 0:
    there they are ±z² / (n + z²).

    Args:
        b: pairs discordant one way.
        c: pairs discordant the other way.
        n: all pairs, at least one.
        confidence: one-sided, of each limit; above 0.5, below 1.
    """
    z = NormalDist().inv_cdf(confidence)
    return -_upper_limit(c, b, n, z), _upper_limit(b, c, n, z)


def mcnemar_p_value(b: int, c: int) -> float:
    """Two-sided p of McNemar's exact test: how likely b and c differ so much, or more, by a fair coin."""
    ways, tail = 1, 1
    for k in range(min(b, c)):
        ways = ways * (b + c - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2 ** (b + c))


def _upper_limit(b: int, c: int, n: int, z: float) -> float:
    """The d above (b - c) / n at which T(d) = -z; T falls as d grows."""
    low, high = (b - c) / n, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        linear = (2 * n - b + c) * middle - b - c
        root = math.sqrt(linear**2 + 8 * n * c * middle * (1 - middle))
        q = max((root - linear) / (4 * n), 0.0)
        spread = math.sqrt(max(n * (2 * q + middle * (1 - middle)), 0.0))
        if b - c - n * middle > -z * spread:
            low = middle
        else:
            high = middle
    return (low + high) / 2
