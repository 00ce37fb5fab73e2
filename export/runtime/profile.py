"""Time the stages of classifying one text, and the floors below them: the calls of the two libraries alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError

PROFILED = ("total", "tokenize", "feed", "run", "decode", "tokenizer_alone", "session_alone")
"""Names of the times that are measured, in order."""
_LEAST_ROUNDS = 5


@dataclass(frozen=True)
class Stages:
    """The steps of classifying one text, and the calls of the two libraries alone.

    A feed holds a graph's inputs. For a question, feed and logits are lists with an entry for each window.
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
    """Return the median of each time in ``PROFILED``, in ms; arguments as for ``TextClassifier.profile``.

    Raises:
        InputError: ``num_runs`` is below 1 or ``num_warmups`` below 0.
    """
    if num_runs < 1 or num_warmups < 0:
        raise InputError(
            f"num_runs is {num_runs} and num_warmups {num_warmups}; give 1 or more, and 0 or more"
        )
    for _ in range(num_warmups):
        _time_round(stages, text)
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < num_runs and (len(rounds) < _LEAST_ROUNDS or time.perf_counter() < end):
        rounds.append(_time_round(stages, text))
    times = np.median(np.diff(rounds, axis=1), axis=0) * 1000
    return dict(zip(PROFILED, times.tolist(), strict=True))


def _time_round(stages: Stages, text: Any) -> list[float]:
    """Run the steps of ``PROFILED`` once, in order, and return the clock in s before, between and after them."""
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
