"""Batches as the samplers draw them, a sample of them, and the cost of a batch by its number of tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .stopwatch import Stopwatch

Batches = list[np.ndarray]
"""Rows of each batch, int64[B]."""
_LEAST_SPREAD = 1.3  # largest over smallest batch; below this ratio, a fitted slope would be noise


@dataclass(frozen=True)
class BatchCost:
    """Linear model of a batch's time: a fixed part, and a part for each of its tokens, padding included.

    Attributes:
        fixed_s: Seconds of a batch without tokens.
        token_s: Seconds per token.
    """

    fixed_s: float
    token_s: float

    def of(self, tokens: np.ndarray) -> float:
        """Return the total seconds of batches with these numbers of tokens, int[N]."""
        return len(tokens) * self.fixed_s + float(np.sum(tokens)) * self.token_s

    @staticmethod
    def fit(tokens: Sequence[int], seconds: Sequence[float]) -> BatchCost:
        """Fit the two parts to measured batches by least squares, with neither of them negative.

        Args:
            tokens: Tokens of each measured batch.
            seconds: Its time in seconds.
        """
        x, y = np.asarray(tokens, dtype=float), np.asarray(seconds, dtype=float)
        by_token = BatchCost(0.0, float(y.sum() / x.sum()))
        if len(x) < 3 or x.max() < _LEAST_SPREAD * x.min():
            return by_token
        slope, fixed = np.polyfit(x, y, 1)
        if slope <= 0:
            return BatchCost(float(y.mean()), 0.0)
        return by_token if fixed <= 0 else BatchCost(float(fixed), float(slope))

    def between(self, other: BatchCost, share: float) -> BatchCost:
        """Return the cost that lies ``share`` (0 to 1) of the way from this one to another."""
        return BatchCost(
            self.fixed_s + share * (other.fixed_s - self.fixed_s),
            self.token_s + share * (other.token_s - self.token_s),
        )


def training_batches(lengths: np.ndarray, batch_size: int, seed: int, *, grouped: bool = True) -> Batches:
    """Return the rows of each optimizer step of the first epoch.

    Args:
        lengths: Tokens of each text, int[N].
        batch_size: Texts of an optimizer step, over all micro-batches.
        seed: Seed of the sampler.
        grouped: Whether texts are grouped by length, as ``LengthGroupedSampler`` does; otherwise they are shuffled.
    """
    from ....training.data.sampling import LengthGroupedSampler

    if grouped:
        order = np.fromiter(LengthGroupedSampler(lengths, batch_size, seed), dtype=np.int64)
    else:
        order = np.random.default_rng(seed).permutation(len(lengths))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def inference_batches(model: Any, lengths: np.ndarray, batch_size: int = 256) -> Batches:
    """Return the batches in which ``compute_logits`` runs a model on texts with these lengths, int[N]."""
    from ....training.models.inference import batch_tokens
    from ....training.models.passes import length_batches

    lengths = np.asarray(lengths)
    return list(length_batches(lengths, batch_size, batch_tokens(model, int(lengths.max(initial=1)))))


def tokens_of(batches: Batches, lengths: np.ndarray) -> np.ndarray:
    """Return the tokens of each batch, padding included: texts times the longest one, int64[len(batches)]."""
    return np.array([len(rows) * int(lengths[rows].max()) for rows in batches], dtype=np.int64)


def sampled(tokens: np.ndarray, count: int) -> list[int]:
    """Return the indices of batches such that any prefix of the list represents all batches.

    The largest comes first, since it needs the most memory; the others are at the quantiles 1/2, 1/4, 3/4, 1/8, ...
    of the numbers of tokens (van der Corput sequence). Indices repeat if there are fewer batches than ``count``.

    Args:
        tokens: Tokens of each batch, int[N].
        count: Number of indices.
    """
    order = np.argsort(tokens, kind="stable")
    quantiles = [_van_der_corput(number) for number in range(1, count)]
    return [int(order[-1]), *(int(order[int(each * len(order))]) for each in quantiles)]


def _van_der_corput(number: int) -> float:
    value, share = 0.0, 0.5
    while number:
        value += share * (number & 1)
        number >>= 1
        share /= 2
    return value


def measured_batches(
    run: Callable[[np.ndarray], object], batches: Batches, lengths: np.ndarray, seconds: float
) -> BatchCost:
    """Time a sample of batches after one warm-up, until ``seconds`` are over, but at least three; fit their cost.

    Args:
        run: Runs the batch with these rows.
        batches: All batches.
        lengths: Tokens of each text.
        seconds: Duration of the measurement.
    """
    tokens = tokens_of(batches, lengths)
    sizes: list[int] = []
    times: list[float] = []
    end, watch = time.perf_counter() + seconds, Stopwatch()
    for number, index in enumerate(sampled(tokens, 65)):
        run(batches[index])
        took = watch.lap()
        if number:
            sizes.append(int(tokens[index]))
            times.append(took)
        if len(times) >= 3 and time.perf_counter() > end:
            break
    return BatchCost.fit(sizes, times)
