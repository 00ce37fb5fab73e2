"""Where the time of one text goes in the runtime: each stage of a classification, and the floors below them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError

PROFILED = ("total", "tokenize", "feed", "run", "decode", "tokenizer_alone", "session_alone")
"""What is measured, in its order."""
_LEAST_ROUNDS = 5


@dataclass(frozen=True)
class Stages:
    """What a classifier does with one text, and the two libraries' own calls.

    What is fed and run is a graph's inputs and its logits, or a list of them for the windows of a question.
    """

    classify: Callable[[Any], Any]
    tokenize: Callable[[Any], tuple[Any, Any, Any]]
    feed: Callable[[Any, Any], Any]
    run: Callable[[Any], Any]
    answer: Callable[[Any, Any, Any, Any], Any]
    tokenizer_alone: Callable[[Any], Any]
    session_alone: Callable[[Any], Any]


def profile_stages(
    stages: Stages, text: Any, num_runs: int, num_warmups: int, seconds: float
) -> dict[str, float]:
    """Return the median in ms of what ``PROFILED`` names, as ``TextClassifier.profile`` describes it.

    Raises:
        InputError: ``num_runs`` is below 1 or ``num_warmups`` below 0.
    """
    if num_runs < 1 or num_warmups < 0:
        raise InputError(
            f"num_runs is {num_runs} and num_warmups {num_warmups}; give 1 or more, and 0 or more"
        )
    for _ in range(num_warmups):
        _clocked(stages, text)
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < num_runs and (len(rounds) < _LEAST_ROUNDS or time.perf_counter() < end):
        rounds.append(_clocked(stages, text))
    times = np.median(np.diff(rounds, axis=1), axis=0) * 1000
    return dict(zip(PROFILED, times.tolist(), strict=True))


def _clocked(stages: Stages, text: Any) -> list[float]:
    """Do what ``PROFILED`` names once, in its order; return the clock in s before, between and after."""
    clock = time.perf_counter
    marks = [clock()]
    stages.classify(text)
    marks.append(clock())
    ids, type_ids, encoding = stages.tokenize(text)
    marks.append(clock())
    feed = stages.feed(ids, type_ids)
    marks.append(clock())
    logits = stages.run(feed)
    marks.append(clock())
    stages.answer(text, ids, encoding, logits)
    marks.append(clock())
    stages.tokenizer_alone(text)
    marks.append(clock())
    stages.session_alone(feed)
    marks.append(clock())
    return marks
