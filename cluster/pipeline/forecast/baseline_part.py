"""Measure a baseline for the forecast: train it on a sample of the texts, then time it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ....errors import InputError
from ....export.baselines import BASELINES
from ....export.baselines.fit import BaselineTexts, fit_baseline, open_baseline
from ....export.benchmark.measurements import median_text
from ...remote.baselines import baseline_texts
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from .request import Request

_MOST_TEXTS, _FEW_TEXTS = 2000, 50
_NUM_BATCH = 32
_LEAST_CALLS = 5


def measure_baseline_part(request: Request, name: str) -> dict[str, float]:
    """Train a baseline on a sample of the texts, and measure it as the benchmark runs it.

    Returns:
        ``fit_s`` of all training texts, estimated from at most 2,000 of them by the baseline's ``growth``; ``load_s``,
        ``call_s``, ``batched_s`` and ``logits_s`` as ``measure_latency_part`` returns them.
    """
    given = baseline_texts(request.config, request.data)
    sample, folder = _sample(given, _MOST_TEXTS), request.work / name
    with suppress(InputError):  # warms up the libraries, even if so few texts have only one label
        fit_baseline(name, _sample(given, _FEW_TEXTS), request.work / f"{name}-first")
    watch = Stopwatch()
    fit_baseline(name, sample, folder)
    scale = len(given.train_texts) / len(sample.train_texts)
    fit_s = watch.lap() * scale ** BASELINES[name].growth
    return {"fit_s": fit_s, **_timed(folder, given.validation_texts, request.seconds / 8)}


def _sample(given: BaselineTexts, most: int) -> BaselineTexts:
    """Return at most ``most`` texts of each split, spread evenly over it."""
    return replace(
        given,
        **{
            f"{split}_{column}": _spread(getattr(given, f"{split}_{column}"), most)
            for split in ("train", "validation")
            for column in ("texts", "labels")
        },
    )


def _spread(values: Sequence[Any], most: int) -> list[Any]:
    rows = np.linspace(0, len(values) - 1, min(len(values), most)).astype(int)
    return [values[row] for row in rows]


def _timed(folder: Path, texts: Sequence[str], seconds: float) -> dict[str, float]:
    watch = Stopwatch()
    opened = open_baseline(folder)
    query, batch = median_text(texts), sorted(texts, key=len)[:: max(1, len(texts) // _NUM_BATCH)]
    opened(query)
    load_s, end = watch.lap(), time.perf_counter() + seconds
    calls = 0
    while calls < _LEAST_CALLS or time.perf_counter() < end:
        opened(query)
        calls += 1
    call_s = watch.lap() / calls
    opened(batch, batch_size=_NUM_BATCH)
    batched_s = watch.lap() / len(batch)
    opened.logits(batch)
    return {"load_s": load_s, "call_s": call_s, "batched_s": batched_s, "logits_s": watch.lap() / len(batch)}
