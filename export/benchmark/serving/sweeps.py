"""Sweep an artifact's latency and throughput over threads, batch size and text length."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ....errors import InputError
from ....texts import TextOrPair, from_json
from ....training.machine import num_usable_cores
from ...runtime.classifier import TextClassifier
from ..measurements import summary_ms
from ..processes import call_in_process
from .texts_of_length import batch_of, text_of_length, untruncated

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
_LENGTHS = (8, 16, 32, 64, 128, 256, 512)
_LEAST_RUNS = 5


def default_threads() -> list[int]:
    """Return 1, 2, 4, … and the number of cores that this process may use."""
    cores = num_usable_cores()
    return sorted({*(2**n for n in range(cores.bit_length()) if 2**n <= cores), cores})


def default_lengths(max_length: int) -> list[int]:
    """Return 8, 16, 32, … and ``max_length`` tokens."""
    return [*(length for length in _LENGTHS if length < max_length), max_length]


def sweep(
    directory: str | Path,
    *,
    texts: Sequence[TextOrPair],
    query: TextOrPair,
    num_threads: int = 1,
    threads: Sequence[int] | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    lengths: Sequence[int] | None = None,
    num_runs: int = 100,
    num_warmups: int = 10,
    seconds: float = 2.0,
) -> dict[str, list[dict[str, Any]]]:
    """Vary one parameter at a time, in fresh processes: intra-op threads, batch size, tokens of a text.

    Args:
        directory: an artifact or ONNX variant.
        texts: texts of which batches and long texts are composed.
        query: the text for the sweep over threads.
        num_threads: intra-op threads for the other two sweeps.
        threads: numbers of intra-op threads; default: 1, 2, 4, … up to the number of cores.
        batch_sizes: texts per call.
        lengths: tokens, including special ones; default: 8, 16, 32, … up to the artifact's ``max_length``.
        num_runs: timed calls per point, or as many as fit into ``seconds``, at least 5.
        num_warmups: untimed calls before those.
        seconds: maximum duration of a point.

    Returns:
        ``threads``, ``batch_size`` and ``length``, each a list of points: ``num_threads``, ``batch_size``,
        ``num_tokens`` (of the longest text), ``num_runs``, ``latency_ms`` of a call (mean, std, p50, p90, p99) and
        ``throughput`` (texts per second).

    Raises:
        InputError: a count is below 1, or a length is over ``max_length``.
        RunFailedError: a process failed.
    """
    classifier = TextClassifier.load(directory)
    threads = default_threads() if threads is None else list(threads)
    lengths = default_lengths(classifier.max_length) if lengths is None else list(lengths)
    _check(threads, batch_sizes, lengths, classifier.max_length)
    tokenizer = untruncated(directory)
    limits = {"num_runs": num_runs, "num_warmups": num_warmups, "seconds": seconds}

    def points(batches: list[list[TextOrPair]], num_threads: int) -> list[dict[str, Any]]:
        arguments = {"directory": str(directory), "batches": batches, "num_threads": num_threads, **limits}
        timed = call_in_process(
            "benchmark.serving.sweeps", "time_batches", arguments, what="a sweep", num_threads=num_threads
        )
        for point, batch in zip(timed, batches, strict=True):
            longest = max(len(each) for each in tokenizer.encode_batch_fast(batch))
            point["num_tokens"] = min(longest, classifier.max_length)
        return timed

    return {
        "threads": [points([[query]], count)[0] for count in threads],
        "batch_size": points([batch_of(texts, size) for size in batch_sizes], num_threads),
        "length": points([[text_of_length(tokenizer, texts, length)] for length in lengths], num_threads),
    }


def time_batches(
    directory: str,
    batches: list[list[TextOrPair]],
    *,
    num_threads: int,
    num_runs: int,
    num_warmups: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """Time calls with each of ``batches`` in this process."""
    classifier = TextClassifier.load(directory, num_threads=num_threads)
    return [
        {
            "num_threads": num_threads,
            "batch_size": len(batch),
            **_time(classifier, [*map(from_json, batch)], num_runs, num_warmups, seconds),
        }
        for batch in batches
    ]


def _time(
    classifier: TextClassifier, batch: list[TextOrPair], num_runs: int, num_warmups: int, seconds: float
) -> dict[str, Any]:
    size = len(batch)
    given = batch[0] if size == 1 else batch
    end = time.perf_counter() + seconds
    for _ in range(num_warmups):
        classifier(given, batch_size=size)
        if time.perf_counter() > end:
            break
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < num_runs and (len(times) < _LEAST_RUNS or time.perf_counter() < end):
        start = time.perf_counter()
        classifier(given, batch_size=size)
        times.append(time.perf_counter() - start)
    throughput = size * len(times) / sum(times)
    return {"num_runs": len(times), "latency_ms": summary_ms(times), "throughput": throughput}


def _check(
    threads: Sequence[int], batch_sizes: Sequence[int], lengths: Sequence[int], max_length: int
) -> None:
    for name, counts in (("threads", threads), ("batch_sizes", batch_sizes), ("lengths", lengths)):
        wrong = [count for count in counts if count < 1]
        if wrong or not counts:
            raise InputError(f"{name} is {list(counts)}; give one or more numbers of 1 or more")
    if max(lengths) > max_length:
        raise InputError(
            f"lengths has {max(lengths)}; this artifact truncates texts to {max_length} tokens: give at most that"
        )
