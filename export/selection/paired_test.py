"""Compare the accuracies of two classifiers on the same texts, with confidence limits."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

_STEPS = 60  # of bisection: 2 / 2**60 is below the resolution of a float


@dataclass(frozen=True)
class PairedDifference:
    """Difference of two classifiers in accuracy, or in another metric, on the same N texts.

    Attributes:
        difference: value of the first minus that of the second; above 0, the first is better.
        low, high: lower and upper limit of the difference; each holds by itself with ``confidence``.
        confidence: one-sided, a fraction.
        only_first, only_second: number of texts that only this classifier got right; None where predictions are
            numbers, neither right nor wrong.
        num_texts: N.
        p_value: two-sided p-value of no difference: McNemar's exact test of accuracies, or twice the share of the
            resamples on the other side of 0.
        method: how the limits were found: ``score``, Tango's score limits, or ``bootstrap``, see
            :mod:`.bootstrap`.
        metric: name of the metric.
    """

    difference: float
    low: float
    high: float
    confidence: float
    only_first: int | None
    only_second: int | None
    num_texts: int
    p_value: float
    method: Literal["score", "bootstrap"] = "score"
    metric: str = "accuracy"

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return asdict(self)


def compare_paired(
    first: np.ndarray, second: np.ndarray, *, confidence: float, metric: str = "accuracy"
) -> PairedDifference:
    """Compare the accuracies of two classifiers on the same texts.

    Args:
        first: bool[N], which texts the first got right.
        second: bool[N], which texts the second got right.
        confidence: one-sided, of each limit; above 0.5, below 1.
        metric: name of the metric that is this share of right texts.
    """
    b, c, n = int((first & ~second).sum()), int((~first & second).sum()), len(first)
    low, high = score_limits(b, c, n, confidence=confidence)
    p_value = mcnemar_p_value(b, c)
    return PairedDifference((b - c) / n, low, high, confidence, b, c, n, p_value, metric=metric)


def score_limits(b: float, c: float, n: float, *, confidence: float) -> tuple[float, float]:
    """Compute confidence limits of p_b - p_c, where b and c of n pairs are discordant one way and the other.

    Tango's asymptotic score limits: the differences d at which |T(d)| is the normal quantile z, with
    T(d) = (b - c - n·d) / sqrt(n·(2·q + d·(1 - d))) and q the maximum-likelihood p_c under d (Tango, "Equivalence test
    and confidence interval for the difference in proportions for the paired-sample design", Statistics in Medicine 17,
    1998). They suit a non-inferiority test, and are not degenerate where b = c = 0: there they are ±z² / (n + z²).

    Args:
        b: number of pairs discordant one way; it and the others may be fractions.
        c: number of pairs discordant the other way.
        n: number of all pairs, at least one.
        confidence: one-sided, of each limit; above 0.5, below 1.
    """
    z = NormalDist().inv_cdf(confidence)
    return -_upper_limit(c, b, n, z), _upper_limit(b, c, n, z)


def texts_to_show(found: PairedDifference, allowed: float) -> int | None:
    """Estimate how many more texts would show that the loss is at most ``allowed``.

    The estimate assumes that more texts have the same shares of discordant pairs, or after a bootstrap, that the limits
    narrow with the square root of the number of texts.

    Args:
        found: the comparison on the texts at hand, whose limit does not show it.
        allowed: the largest loss, a fraction.

    Returns:
        Number of texts beyond those at hand; None where the measured loss is the allowed one or more (no number
        of texts would show it), where more than 2^20 times the texts at hand are needed, or where a bootstrap had no
        text that only one got right to estimate the width from.
    """
    if found.difference <= -allowed:
        return None
    if found.method == "bootstrap":
        return _texts_to_narrow(found, allowed)

    only_first, only_second = found.only_first or 0, found.only_second or 0

    def is_shown(times: float) -> bool:
        scaled = times * only_first, times * only_second, times * found.num_texts
        return score_limits(*scaled, confidence=found.confidence)[0] >= -allowed

    high = 1.0
    while not is_shown(high):
        high *= 2
        if high > 2**20:
            return None
    low = high / 2
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_shown(middle) else (middle, high)
    return max(0, math.ceil(high * found.num_texts - 1e-6) - found.num_texts)


def _texts_to_narrow(found: PairedDifference, allowed: float) -> int | None:
    # The limits are those of the score test, because no resample changed the metric.
    if found.difference == 0 and found.low == -found.high:
        return None
    times = ((found.difference - found.low) / (found.difference + allowed)) ** 2
    return None if times > 2**20 else max(0, math.ceil((times - 1) * found.num_texts - 1e-6))


def mcnemar_p_value(b: int, c: int) -> float:
    """Compute the two-sided p value of McNemar's exact test: the probability of at least this difference by chance."""
    ways, tail = 1, 1
    for k in range(min(b, c)):
        ways = ways * (b + c - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2 ** (b + c))


def _upper_limit(b: float, c: float, n: float, z: float) -> float:
    """Find the d above (b - c) / n at which T(d) = -z, by bisection; T decreases with d."""
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
