"""Time models in turns, each in a process of its own, for the ratio of their latencies with its interval."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...storage.temporary import temporary_directory
from ..benchmark.contention import MOST_WAITING
from ..benchmark.measure_models import Measurement, MeasurementSpec, prepare_model
from ..benchmark.targets.base import OpenOptions
from .timed_process import Block, TimedProcess

NUM_ROUNDS = {"quick": 8, "thorough": 24}
"""Rounds by ``benchmark.effort``; each times one block of every model."""
SECONDS = {"quick": 3.0, "thorough": 10.0}
"""Seconds for each model that the variant is compared with, after which no round begins."""
INTERVAL = 0.95
"""Confidence of the interval, two-sided."""
_LEAST_ROUNDS = 5


@dataclass(frozen=True)
class LatencyRatio:
    """How many times faster a variant is than another model.

    Attributes:
        faster: Geometric mean over rounds of the other's median time over the variant's.
        low, high: Limits of its 95 % interval.
        num_rounds: Rounds that it is computed from.
        num_measured: Rounds that were measured; the most disturbed ones are dropped.
        own_ms, base_ms: Geometric mean over those rounds of the median time of one text, of the variant and of the
            other model; their ratio is ``faster``.
        waiting: Largest share of a block during which a process waited for a processor; None where it is not known.
    """

    faster: float
    low: float
    high: float
    num_rounds: int
    num_measured: int
    own_ms: float
    base_ms: float
    waiting: float | None

    @property
    def is_disturbed(self) -> bool:
        """Whether other processes disturbed even the quietest rounds."""
        return self.waiting is not None and self.waiting > MOST_WAITING

    def to_json(self) -> dict[str, Any]:
        """Return the ratio as JSON values."""
        return asdict(self)


Timed = Callable[[], Block]
"""Time one block of a model."""


def measure_ratios(
    variant: tuple[MeasurementSpec, Measurement],
    bases: Sequence[tuple[MeasurementSpec, Measurement]],
    *,
    task: str,
    num_outputs: int,
    effort: str,
) -> dict[str, LatencyRatio]:
    """Time a variant in turns with other models, and return how many times faster it is than each.

    All models are opened as they were measured (session options, threads, query), each in a process of its own as in
    deployment: in one process the garbage collection and memory of the larger would slow the smaller. They run one
    after the other, a block of at least 10 runs each, in the order A B C, C B A, …, so that a change of the machine's
    speed affects all alike.

    Args:
        variant: The variant with its measurement.
        bases: The other models with theirs.
        task: Name of the task.
        num_outputs: Number of outputs of a model for the data's labels.
        effort: ``benchmark.effort``.

    Returns:
        The ratio to each of ``bases`` by its name.

    Raises:
        RunFailedError: A model's process failed.
    """
    with ExitStack() as stack:
        models: dict[str, Timed] = {}
        for spec, measured in (variant, *bases):
            scratch = stack.enter_context(temporary_directory("interleaved"))
            prepared = prepare_model(spec, task, num_outputs, measured.num_threads, scratch)
            directory = spec.directory if prepared is None else prepared.directory
            options = OpenOptions(
                directory, spec.max_length, spec.tokenizer_dir, measured.num_threads, measured.session, task
            )
            process = TimedProcess(spec.name, spec.kind, options, measured.query, scratch)
            models[spec.name] = stack.enter_context(process)
        for model in models.values():
            model()  # returns when the model is opened
        blocks = time_in_turns(models, NUM_ROUNDS[effort], SECONDS[effort] * len(bases))
    own = blocks[variant[0].name]
    return {spec.name: latency_ratio(own, blocks[spec.name], NUM_ROUNDS[effort]) for spec, _ in bases}


def time_in_turns(models: dict[str, Timed], num_rounds: int, seconds: float) -> dict[str, list[Block]]:
    """Time one block of every model a round, in alternating order, until enough rounds are undisturbed.

    Args:
        models: Name → times one block.
        num_rounds: Number of undisturbed rounds to reach.
        seconds: No round begins after that many seconds, except the first five.

    Returns:
        The blocks of each model, one a round, in order.
    """
    blocks: dict[str, list[Block]] = {name: [] for name in models}
    end, num_quiet, number = time.monotonic() + seconds, 0, 0
    while num_quiet < num_rounds and (number < _LEAST_ROUNDS or time.monotonic() < end):
        order = list(models) if number % 2 == 0 else list(reversed(models))
        found = {name: models[name]() for name in order}
        for name, block in found.items():
            blocks[name].append(block)
        num_quiet += all((block.waiting or 0.0) <= MOST_WAITING for block in found.values())
        number += 1
    return blocks


def latency_ratio(own: Sequence[Block], base: Sequence[Block], num_rounds: int) -> LatencyRatio:
    """Compute the ratio of two models' latencies from the blocks of R rounds.

    Rounds in which a process waited more than :data:`MOST_WAITING` for a processor are dropped, as long as five are
    left; beyond those, the rounds with the least waiting are kept.

    Args:
        own: Blocks of the variant, R.
        base: Blocks of the other model in the same rounds, R.
        num_rounds: Most rounds to use.
    """
    waited = np.array([max(a.waiting or 0.0, b.waiting or 0.0) for a, b in zip(own, base, strict=True)])
    order = np.argsort(waited, kind="stable")
    num_quiet = int((waited <= MOST_WAITING).sum())
    kept = order[: min(num_rounds, max(num_quiet, _LEAST_ROUNDS))]
    own_s, base_s = (np.array([block.seconds for block in blocks])[kept] for blocks in (own, base))
    faster, low, high = ratio_interval(own_s, base_s)
    is_known = all(block.waiting is not None for block in (*own, *base))
    return LatencyRatio(
        faster=faster,
        low=low,
        high=high,
        num_rounds=len(kept),
        num_measured=len(own),
        own_ms=_mean_ms(own_s),
        base_ms=_mean_ms(base_s),
        waiting=float(waited[kept].max()) if is_known else None,
    )


def _mean_ms(seconds: np.ndarray) -> float:
    return float(1000 * np.exp(np.log(seconds).mean()))


def ratio_interval(own_s: np.ndarray, base_s: np.ndarray) -> tuple[float, float, float]:
    """Return the geometric mean of the paired ratios base / own, and its 95 % interval: Student's, of their logarithms.

    Args:
        own_s: float64[R], times of the one model.
        base_s: float64[R], times of the other in the same rounds.
    """
    from scipy.stats import t

    logs = np.log(base_s / own_s)
    mean, error = logs.mean(), logs.std(ddof=1) / np.sqrt(len(logs))
    reach = t.ppf((1 + INTERVAL) / 2, len(logs) - 1) * error
    return float(np.exp(mean)), float(np.exp(mean - reach)), float(np.exp(mean + reach))
