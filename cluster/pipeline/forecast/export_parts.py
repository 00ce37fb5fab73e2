"""Measure export and latency for the forecast, each in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....errors import ArtifactError
from ....export.benchmark import targets
from ....export.benchmark.measurements import long_text, median_text, seconds_of_length
from ....export.benchmark.targets.base import OpenOptions
from ....export.variants.build import build_variant
from ....search.space.students import student_name
from ....texts import num_characters, texts_of
from ...remote.tasks import validation_texts
from .request import TEACHER
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from ....export.benchmark.config import BenchmarkConfig
    from ....export.benchmark.targets.base import Opened
    from ....texts import TextOrPair
    from .request import Point, Request

PLAIN = "onnx"
_NUM_BATCH = 32
_LEAST_CALLS = 5


def measure_export_part(request: Request, points: list[Point]) -> dict[str, Any]:
    """Build the plain ONNX variant of the largest student as the job does; return ``seconds`` and ``bytes``."""
    config, data, student = request.config, request.data, _student(request, points)
    watch = Stopwatch()
    build_variant(
        PLAIN,
        student,
        request.work / PLAIN,
        config=config.export,
        max_length=config.training.num_tokens,
        task=config.task,
        out_of_scope_label=data.out_of_scope_label,
        num_threads=config.benchmark.num_threads,
        validation=validation_texts(config, data),
        takes_pairs=data.has_pairs,
    )
    return {
        "seconds": watch.lap(),
        "bytes": (request.work / PLAIN / "model.onnx").stat().st_size,
    }


def measure_latency_part(request: Request, points: list[Point], name: str) -> dict[str, float]:
    """Measure a model (``teacher``, ``student`` or ``onnx``) as the benchmark runs it.

    Returns:
        ``load_s``; ``call_s`` of one text of median length; ``batched_s`` per text in a batch; ``logits_s`` per text
        when accuracy is measured; and ``lengths_s``, the time to measure texts of ``benchmark.lengths``.
    """
    config, texts = request.config, texts_of(request.data.splits["validation"])
    folders = {TEACHER: _teacher(request), PLAIN: request.work / PLAIN}
    folder = folders.get(name) or _student(request, points)
    length, threads = config.training.num_tokens, config.benchmark.num_threads
    kind = "onnx" if name == PLAIN else "pytorch"
    watch = Stopwatch()
    opened = targets.get(kind).open(OpenOptions(str(folder), length, None, threads, None, config.task))
    query, batch = median_text(texts), sorted(texts, key=num_characters)[:: max(1, len(texts) // _NUM_BATCH)]
    opened.pipeline(query)
    load_s, end = watch.lap(), time.perf_counter() + request.seconds / 8
    calls = 0
    while calls < _LEAST_CALLS or time.perf_counter() < end:
        opened.pipeline(query)
        calls += 1
    call_s = watch.lap() / calls
    opened.pipeline(batch, batch_size=_NUM_BATCH)
    batched_s = watch.lap() / len(batch)
    opened.logits(batch)
    found = {
        "load_s": load_s,
        "call_s": call_s,
        "batched_s": batched_s,
        "logits_s": watch.lap() / len(batch),
    }
    return {**found, "lengths_s": _lengths_s(opened, texts, config.benchmark)}


def _lengths_s(opened: Opened, texts: Sequence[TextOrPair], config: BenchmarkConfig) -> float:
    """Estimate the seconds that the benchmark needs to time texts of several lengths, from one call of each length."""
    total, watch = 0.0, Stopwatch()
    for num_tokens in config.lengths if opened.at_length else ():
        assert opened.at_length is not None
        pipeline, text = opened.at_length(num_tokens), long_text(texts, num_tokens)
        if pipeline is None:
            break
        watch.lap()
        try:
            pipeline(text)
        except ArtifactError:  # the graph has fewer positions
            break
        total += seconds_of_length(watch.lap(), config)
    return total


def _teacher(request: Request) -> Path:
    return request.teacher or request.store.local(TEACHER)


def _student(request: Request, points: list[Point]) -> Path:
    """Return the folder of the selected student, or of the largest one that was built."""
    if request.student is not None:
        return request.student
    names = {student_name(each.arguments): each for each in points}
    largest = max(names, key=lambda name: names[name].size)
    return request.store.local(request.student_key(names, largest))
