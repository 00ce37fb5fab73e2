"""Find session options that make an artifact faster on this machine, by interleaved timings that expose noise."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...texts import TextOrPair, from_json
from ...training.ragged import flat
from ..runtime.classifier import TextClassifier

Classify = Callable[[TextOrPair], Any]

NUM_PAIRS = 15
_PAIRS_TO_WIN = 13  # of 15: happens by chance once in 270 (sign test)
_LEAST_GAIN = 0.01
# Largest difference of logits that counts as equal: reordered 32-bit additions change less, one int8 rounding more.
_SAME_LOGITS = 1e-5
_OPTIONS: tuple[dict[str, Any], ...] = (
    {"enable_cpu_mem_arena": False},
    {"enable_mem_pattern": False},
    {"disable_prepacking": True},
    {"graph_optimization_level": "extended"},
    {"graph_optimization_level": "basic"},
)
_OPTIONS_OF_SEVERAL_THREADS: tuple[dict[str, Any], ...] = (
    {"allow_spinning": False},
    {"execution_mode": "parallel"},
)


def candidates(num_threads: int) -> list[dict[str, Any]]:
    """Return the options to try, one at a time; those for several threads are left out with one thread."""
    return [*_OPTIONS, *(_OPTIONS_OF_SEVERAL_THREADS if num_threads > 1 else ())]


def tune_session(
    directory: str,
    *,
    query: TextOrPair,
    texts: Sequence[TextOrPair],
    num_threads: int = 1,
    max_threads: int | None = None,
    seconds: float = 0.2,
) -> dict[str, Any]:
    """Measure each option against the default, and combine those that are better by more than the noise.

    The two sessions of a comparison alternate, A B B A …, so that other load on the machine affects both. An option is
    better if it wins 13 of 15 pairs, and its median gain exceeds both 1 % and the noise, measured between two sessions
    with default options. The better options are combined, starting from the best, each kept only if it improves on
    those before it; the combination must win once more in newly opened sessions, or nothing is selected. An option
    that changes the logits of ``texts`` is never selected.

    Args:
        directory: an artifact or ONNX variant.
        query: the text or pair that is timed.
        texts: texts whose logits are compared.
        num_threads: intra-op threads.
        max_threads: also measure 1, 2, 4, … threads up to this number with the selected options, and each number above
            1 also without spinning; None: no others.
        seconds: duration of one comparison, or 30 runs where those take longer.

    Returns:
        ``session`` (the options to use, {} for the default), ``num_threads`` to use, ``noise`` (relative), ``gain`` of
        ``session`` (relative, 0 for the default), ``options``: name, value, gain, pairs won, largest difference of
        logits, and whether it is better, for each option, and ``threads``: the same for other numbers of threads,
        against the best before them.
    """
    query, texts = from_json(query), [*map(from_json, texts)]

    def opened(session: Mapping[str, Any], threads: int = num_threads) -> TextClassifier:
        classifier = TextClassifier.load(directory, num_threads=threads, session=session)
        for _ in range(3):
            classifier(query)
        return classifier

    default = opened({})
    logits = flat(default.logits(texts))
    noise = abs(float(np.median(paired_gains(default, opened({}), query, seconds))))
    least = max(noise, _LEAST_GAIN)
    looked_at: list[dict[str, Any]] = []
    kept: list[tuple[float, dict[str, Any]]] = []

    def compared(current: TextClassifier, other: TextClassifier) -> dict[str, Any]:
        changed = float(np.abs(flat(other.logits(texts)) - logits).max(initial=0.0))
        gains = paired_gains(current, other, query, seconds)
        return {
            "gain": float(np.median(gains)),
            "pairs_won": int((gains > 0).sum()),
            "max_abs_diff": changed,
            "better": changed <= _SAME_LOGITS and is_better(gains, least),
        }

    for option in candidates(num_threads):
        [(name, value)] = option.items()
        figures = compared(default, opened(option))
        looked_at.append({"option": name, "value": value, **figures})
        if figures["better"]:
            kept.append((figures["gain"], option))
    session = _combined(kept, opened, default, query, seconds, least)
    gain = 0.0
    if session:
        confirmed = compared(opened({}), opened(session))
        session, gain = (session, confirmed["gain"]) if confirmed["better"] else ({}, 0.0)
    found = {"noise": noise, "gain": gain, "options": looked_at, "threads": []}
    best, others = (session, num_threads), other_threads(num_threads, max_threads)
    current = opened(session) if others else default
    for threads, option in others:
        other = opened(session | option, threads)
        figures = compared(current, other)
        found["threads"].append({"num_threads": threads, **option, **figures})
        if figures["better"]:
            best, current = (session | option, threads), other
    return {"session": best[0], "num_threads": best[1], **found}


def other_threads(num_threads: int, max_threads: int | None) -> list[tuple[int, dict[str, Any]]]:
    """Return further numbers of threads to try, ascending, each with an option to add to the selected ones."""
    doubled = [2**power for power in range((max_threads or 0).bit_length())]
    counts = sorted({each for each in (*doubled, max_threads or 0) if each not in (0, num_threads)})
    return [
        (count, option)
        for count in counts
        for option in ({}, {"allow_spinning": False})
        if count > 1 or not option
    ]


def _combined(
    kept: list[tuple[float, dict[str, Any]]],
    opened: Callable[[Mapping[str, Any]], TextClassifier],
    default: TextClassifier,
    query: TextOrPair,
    seconds: float,
    least: float,
) -> dict[str, Any]:
    """Combine the best option with each next one that makes the combination faster."""
    session: dict[str, Any] = {}
    current = default
    for _, option in sorted(kept, key=lambda each: -each[0]):
        if session and set(option) <= set(session):  # another value of the same option was better
            continue
        joined = session | option
        other = opened(joined)
        if not session or is_better(paired_gains(current, other, query, seconds), least):
            session, current = joined, other
    return session


def paired_gains(first: Classify, second: Classify, text: TextOrPair, seconds: float) -> np.ndarray:
    """Measure the share of time that ``second`` saves against ``first`` in each pair, float64 ``[NUM_PAIRS]``.

    Each pair times both, in alternating order; a time is the median of several runs. Fewer pairs are returned if the
    machine is so busy that they take three times as long as planned.
    """
    once = _median_seconds(first, text, 3)
    num_runs = int(np.clip(seconds / (2 * NUM_PAIRS * max(once, 1e-9)), 1, 50))
    gains: list[float] = []
    end = time.perf_counter() + 3 * max(seconds, 2 * NUM_PAIRS * num_runs * once)
    for pair in range(NUM_PAIRS):
        if gains and time.perf_counter() > end:
            break
        in_turn = (first, second) if pair % 2 == 0 else (second, first)
        times = [_median_seconds(classify, text, num_runs) for classify in in_turn]
        before, after = times if pair % 2 == 0 else reversed(times)
        gains.append(1 - after / before)
    return np.array(gains)


def is_better(gains: np.ndarray, least: float) -> bool:
    """Return whether ``gains`` are more than chance, with a median above ``least``."""
    return bool((gains > 0).sum() >= _PAIRS_TO_WIN and np.median(gains) > least)


def _median_seconds(classify: Classify, text: TextOrPair, num_runs: int) -> float:
    times = np.empty(num_runs)
    for run in range(num_runs):
        start = time.perf_counter()
        classify(text)
        times[run] = time.perf_counter() - start
    return float(np.median(times))
