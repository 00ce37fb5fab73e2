"""Measure an artifact as in serving: single texts, batches and memory, and optionally sweeps, load and startup."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....errors import RunFailedError
from ....texts import TextOrPair, from_json
from ...runtime.classifier import TextClassifier
from ..measure_models import NUM_COMPARED_TEXTS
from ..measurements import PerformanceBenchmark, runtime_bytes
from ..memory import peak_memory_mb
from ..processes import call_in_process
from .concurrency import measure_load
from .startup import measure_startup
from .sweeps import sweep
from .texts_of_length import num_tokens

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtraMeasurements:
    """Optional measurements besides latency, throughput, size and memory.

    Attributes:
        sweep: sweeps over threads, batch sizes and lengths.
        load: concurrent clients, in threads and in processes.
        startup: time from a process's start to its first prediction.
        session: each session option against the default.
        floors: lower bounds on latency on this machine.
        seconds: duration of each measurement under load, and maximum duration of each point of a sweep.
    """

    sweep: bool = False
    load: bool = False
    startup: bool = False
    session: bool = False
    floors: bool = False
    seconds: float = 2.0


def measure_serving(
    directory: str | Path,
    *,
    texts: Sequence[TextOrPair],
    num_runs: int = 100,
    num_warmups: int = 10,
    num_threads: int = 1,
    extras: ExtraMeasurements | None = None,
) -> dict[str, Any]:
    """Measure an artifact in fresh processes that do nothing else.

    Args:
        directory: an artifact or ONNX variant.
        texts: texts to classify; the one of median length, the query, is also timed by itself.
        num_runs: timed runs of the query.
        num_warmups: runs before timing.
        num_threads: intra-op threads.
        extras: optional measurements.

    Returns:
        ``query``, ``num_threads``, ``profile_ms`` (where the query's time goes), ``latency_ms``, ``sample_latency_ms``
        (None for one text), ``throughput``, ``peak_memory_mb``, ``size_mb`` of the graph in bytes / 2**20, ``files_mb``
        of every file that the runtime reads in bytes / 10**6, and the result of each of ``extras``; ``floors`` is
        missing where they cannot be measured.

    Raises:
        InputError: a text or number is invalid.
        RunFailedError: a process failed.
    """
    extras = extras or ExtraMeasurements()
    shared: dict[str, Any] = {"num_runs": num_runs, "num_warmups": num_warmups, "num_threads": num_threads}
    measured = call_in_process(
        "benchmark.serving.measure",
        "time_artifact",
        {"directory": str(directory), "texts": list(texts), **shared},
        what="the artifact",
        num_threads=num_threads,
    )
    query = measured["query"] = from_json(measured["query"])
    if extras.sweep:
        measured["sweep"] = sweep(directory, texts=texts, query=query, seconds=extras.seconds, **shared)
    if extras.load:
        measured["load"] = measure_load(
            directory, texts=texts, num_threads=num_threads, seconds=extras.seconds
        )
    if extras.startup:
        measured["startup"] = measure_startup(directory, text=query, num_threads=num_threads)
    if extras.session:
        measured["session"] = _compare_sessions(directory, texts, query, num_threads)
    if extras.floors:
        _add_floors(measured, directory, min(extras.seconds, 0.5))
    return measured


def time_artifact(
    directory: str, texts: list[TextOrPair], *, num_runs: int, num_warmups: int, num_threads: int
) -> dict[str, Any]:
    """Measure latency, throughput, memory and size in this process."""
    classifier, texts = TextClassifier.load(directory, num_threads=num_threads), [*map(from_json, texts)]
    benchmark = PerformanceBenchmark(
        classifier,
        texts,
        model_path=directory,
        num_runs=num_runs,
        num_warmups=num_warmups,
        num_sample_texts=len(texts),
    )
    first_call = benchmark.time_first_call()
    profile = classifier.profile(benchmark.query, num_runs=num_runs, num_warmups=num_warmups)
    return {
        "query": benchmark.query,
        "num_threads": num_threads,
        "profile_ms": {**profile, "first_call": first_call},
        "latency_ms": benchmark.time_pipeline(),
        "sample_latency_ms": benchmark.time_sample() if len(texts) > 1 else None,
        "throughput": benchmark.compute_throughput(),
        "peak_memory_mb": peak_memory_mb(),
        **benchmark.compute_size(),
        "files_mb": runtime_bytes(Path(directory)) / 10**6,
    }


def _compare_sessions(
    directory: str | Path, texts: Sequence[TextOrPair], query: TextOrPair, num_threads: int
) -> dict[str, Any]:
    """Tune session options, and measure load time and memory of a server with each option."""
    arguments = {
        "directory": str(directory),
        "query": query,
        "texts": list(texts[:NUM_COMPARED_TEXTS]),
        "num_threads": num_threads,
    }
    tuned = call_in_process(
        "benchmark.session_tuning", "tune_session", arguments, what="session options", num_threads=num_threads
    )

    def started(session: dict[str, Any]) -> dict[str, float]:
        served = measure_startup(directory, text=query, num_threads=num_threads, num_runs=3, session=session)
        return {name: served[name] for name in ("load_ms", "peak_memory_mb")}

    tuned["default"] = started({})
    for option in tuned["options"]:
        option |= started({option["option"]: option["value"]})
    return tuned


def _add_floors(measured: dict[str, Any], directory: str | Path, seconds: float) -> None:
    """Add the floor of the query and, for each point of a sweep on one thread, the floor of its shape."""
    from ..roofline import measured_floors  # the only part that needs onnx

    tokens = num_tokens(directory, measured["query"])
    points = [
        point for each in measured.get("sweep", {}).values() for point in each if point["num_threads"] == 1
    ]
    shapes = sorted({(1, tokens), *((point["batch_size"], point["num_tokens"]) for point in points)})
    try:
        found = measured_floors(directory, shapes, seconds=seconds)
    except RunFailedError as error:  # such as a graph whose products cannot be counted
        _log.warning("floors not measured: %s", error)
        return
    by_shape = {(each["batch_size"], each["num_tokens"]): each for each in found["shapes"]}
    measured["floors"] = {
        **{name: found[name] for name in ("rates", "working_set_mb")},
        "query": by_shape[1, tokens],
    }
    for point in points:
        point["floor_ms"] = by_shape[point["batch_size"], point["num_tokens"]]["floor_ms"]
