"""Measure the models of the report, one after another, each in a fresh process."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError, RunFailedError
from ...progress import Progress, ReportProgress, ignore
from ...storage.temporary import temporary_directory
from ...texts import TextOrPair
from ...training import tasks
from ..artifact.manifest import SETTINGS_FILE
from ..runtime.classifier_config import read_config
from . import targets
from .measurements import median_text
from .processes import call_in_process, run_module
from .records import BenchmarkTexts, Measurement, MeasurementSpec, Outcome
from .targets.base import Preparation, Prepared, Target

if TYPE_CHECKING:
    from ..out_of_scope.thresholds import ScopeGoal
    from .config import BenchmarkConfig

__all__ = [
    "NUM_COMPARED_TEXTS",
    "BenchmarkTexts",
    "Measurement",
    "MeasurementSpec",
    "Outcome",
    "judge_again",
    "measure_models",
    "median_text",
    "prepare_model",
]

_log = logging.getLogger(__name__)
SECONDS_OF_RATE = 0.2  # of measurement, for each of the three rates of a floor
LOGITS_FILE = "logits.npz"
NUM_COMPARED_TEXTS = 32  # whose logits are compared to detect session options that change them


def measure_models(
    specs: Sequence[MeasurementSpec],
    texts: BenchmarkTexts,
    config: BenchmarkConfig,
    *,
    goal: ScopeGoal | None = None,
    compressed: bool = False,
    report: ReportProgress = ignore,
    keep: Callable[[Measurement, Path], None] | None = None,
    leave_out: Callable[[str, str], None] | None = None,
) -> list[Measurement]:
    """Measure every model, one after another, each in a fresh process with the same number of threads.

    The caller must ensure that nothing else runs on this machine meanwhile.

    Args:
        specs: models to measure.
        texts: validation and test split.
        config: the ``benchmark`` section.
        goal: goal of the threshold selection; None: nothing is measured with a threshold.
        compressed: also measure the size after compression, which is slow.
        report: called with each model as soon as it is measured.
        keep: called with each measurement and the file of the model's logits, which :func:`judge_again` takes; the file
            is deleted afterwards, and does not exist for a model without accuracy.
        leave_out: called with the name of a model that cannot be measured, and why, if it is optional or belongs to a
            GPU target that is not the first of ``benchmark.targets``; None: this raises, too.

    Raises:
        InputError: a split is empty.
        RunFailedError: the process of a model failed; the message has the model's name and the last line of stderr.
    """
    if not texts.validation_texts or not texts.test_texts:
        raise InputError("validation and test texts must have at least one text each")
    query = config.query or median_text(texts.validation_texts)
    measured = []
    for spec in specs:
        _log.info("benchmark: %s", spec.name)
        target, counts = targets.get(spec.kind), {"done": len(measured), "total": len(specs)}
        if target.prepare is not None:
            report(Progress(f"{target.preparation} {spec.name}", counts))
        with temporary_directory("benchmark") as scratch:
            try:
                result = _measure_model(spec, texts, config, query, goal, scratch, compressed=compressed)
            except RunFailedError as error:
                if leave_out is None or not _can_be_left_out(target, config):
                    raise
                _log.warning("%s", error)
                leave_out(spec.name, str(error))
                continue
            if keep is not None:
                keep(result, scratch / LOGITS_FILE)
        measured.append(result)
        report(_progress_of(result, len(measured), len(specs)))
    return measured


def _can_be_left_out(target: Target, config: BenchmarkConfig) -> bool:
    """Return whether a job continues without a model of the target: nothing is selected or compared by it."""
    return target.is_optional or (target.needs_gpu and target.place != config.targets[0])


def _progress_of(result: Measurement, num_measured: int, num_all: int) -> Progress:
    message = f"{num_measured} of {num_all} models measured"
    counts = {"done": num_measured, "total": num_all}
    if result.latency_ms is None:
        return Progress(message, {"name": result.name, **counts})
    latency, size = result.latency_ms["p50"], result.size_mb
    message += f"; {result.name}: {latency:.2f} ms, {size:.1f} MB"
    message += "; disturbed by other processes" if result.is_disturbed else ""
    return Progress(message, {"name": result.name, "latency_ms": latency, "size_mb": size, **counts})


def _measure_model(
    spec: MeasurementSpec,
    texts: BenchmarkTexts,
    config: BenchmarkConfig,
    query: TextOrPair,
    goal: ScopeGoal | None,
    scratch: Path,
    *,
    compressed: bool,
) -> Measurement:
    num_outputs = tasks.get(texts.task).num_outputs(texts.label_names)
    prepared = prepare_model(spec, texts.task, num_outputs, config.num_threads, scratch)
    # In another process, because the compared sessions would count towards the model's memory.
    session, num_threads = _tuned(spec, texts, config, query)
    config = config.model_copy(update={"num_threads": num_threads})
    directory = spec.directory if prepared is None else prepared.directory
    request = {
        "model": {**asdict(spec), "directory": directory, "session": session},
        "texts": _plain_texts(texts),
        "config": config.model_dump(),
        "query": query,
        "compressed": compressed,
        "goal": _plain_goal(goal),
        "logits_file": str(scratch / LOGITS_FILE),
    }
    request_file, out_file = scratch / "request.json", scratch / "out.json"
    request_file.write_text(json.dumps(request), encoding="utf-8")
    arguments = [str(request_file), str(out_file)]
    run_module("benchmark.worker", arguments, what=spec.name, num_threads=config.num_threads)
    values = json.loads(out_file.read_text(encoding="utf-8"))
    if prepared is not None:
        values["size_mb"] = prepared.size_mb
    return Measurement(
        **values,
        name=spec.name,
        kind=spec.kind,
        num_threads=config.num_threads,
        query=query,
        max_abs_diff=spec.max_abs_diff,
        fused=spec.fused,
        model=spec.model,
        session=session,
        floor_ms=_floor_ms(spec, config, query),
        training=None if prepared is None else prepared.training,
    )


def prepare_model(
    spec: MeasurementSpec, task: str, num_outputs: int, num_threads: int, scratch: Path
) -> Prepared | None:
    """Create the folder to measure in ``scratch``, for a target that does not open the model's own folder."""
    prepare = targets.get(spec.kind).prepare
    if prepare is None:
        return None
    preparation = Preparation(spec.name, spec.directory, num_outputs, task, num_threads, scratch)
    return prepare(preparation)


def _tuned(
    spec: MeasurementSpec, texts: BenchmarkTexts, config: BenchmarkConfig, query: TextOrPair
) -> tuple[dict[str, Any] | None, int]:
    """Return the session options and number of threads to measure a model with."""
    if not targets.get(spec.kind).is_tuned or not config.tune_session:
        return None, config.num_threads
    arguments = {
        "directory": spec.directory,
        "query": query,
        "texts": list(texts.validation_texts[:NUM_COMPARED_TEXTS]),
        "num_threads": config.num_threads,
        "max_threads": config.max_threads,
    }
    most = max(config.num_threads, config.max_threads or 1)
    tuned = call_in_process(
        "benchmark.session_tuning", "tune_session", arguments, what=spec.name, num_threads=most
    )
    return tuned["session"], tuned["num_threads"]


def _floor_ms(spec: MeasurementSpec, config: BenchmarkConfig, query: TextOrPair) -> dict[str, float] | None:
    if not targets.get(spec.kind).is_tuned or not config.floors or config.num_threads != 1:
        return None
    arguments = {"directory": spec.directory, "text": query, "seconds": SECONDS_OF_RATE}
    try:
        return call_in_process(
            "benchmark.roofline", "floor_of_text", arguments, what="the floor", num_threads=1
        )
    except RunFailedError as error:  # the measurement is useful without it
        _log.warning("%s: floor not measured: %s", spec.name, error)
        return None


def judge_again(
    measurement: Measurement,
    logits_file: Path,
    directory: Path | None,
    texts: BenchmarkTexts,
    goal: ScopeGoal | None,
) -> Measurement:
    """Measure accuracy, calibration and threshold again from stored logits, as another goal requires.

    Args:
        measurement: The measurement; its times, sizes and memory stay.
        logits_file: Logits that were stored with it.
        directory: Folder of the model, whose distiltune.json has its present threshold; None: it has no folder.
        texts: The texts that it was measured on.
        goal: Goal of the threshold selection.

    Raises:
        InputError: The logits cannot be read.
    """
    from .accuracy.judge import judge
    from .targets.outputs import ScoredModel

    threshold = temperature = None
    if directory is not None and targets.get(measurement.kind).is_onnx:
        config = read_config((directory / SETTINGS_FILE).read_bytes(), directory / SETTINGS_FILE)
        threshold, temperature = config.threshold, config.temperature
    model = ScoredModel.load(logits_file, threshold, temperature)
    judged = judge(model, _plain_texts(texts), _plain_goal(goal))
    return replace(measurement, **{"with_threshold": None, **judged})


def _plain_texts(texts: BenchmarkTexts) -> dict[str, Any]:
    return {field.name: _plain(getattr(texts, field.name)) for field in fields(texts)}


def _plain_goal(goal: ScopeGoal | None) -> dict[str, Any] | None:
    return None if goal is None else {"config": goal.config.model_dump(), "label": goal.label}


def _plain(value: Any) -> Any:
    """Return a column of texts, pairs or labels as a list, with NumPy's numbers converted to Python's."""
    if value is None or isinstance(value, str | dict):
        return value
    return [item if isinstance(item, str | tuple | list) else np.asarray(item).tolist() for item in value]
