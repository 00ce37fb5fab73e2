"""Measure the models of the report, one after another, each in a fresh process."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...errors import InputError, RunFailedError
from ...progress import Progress, ReportProgress, ignore
from ...storage.temporary import temporary_directory
from ...texts import TextOrPair, from_json
from ...training import tasks
from ..artifact.manifest import SETTINGS_FILE
from ..runtime.classifier_config import read_config
from . import targets
from .contention import MOST_WAITING
from .measurements import median_text
from .processes import call_in_process, run_module
from .targets.base import Preparation, Prepared

if TYPE_CHECKING:
    from ..config import BenchmarkConfig
    from ..out_of_scope.thresholds import ScopeGoal

_log = logging.getLogger(__name__)
SECONDS_OF_RATE = 0.2  # of measurement, for each of the three rates of a floor
Outcome = Literal["passed", "failed", "inconclusive"]
"""Of a gate."""
LOGITS_FILE = "logits.npz"
NUM_COMPARED_TEXTS = 32  # whose logits are compared to detect session options that change them


@dataclass(frozen=True)
class MeasurementSpec:
    """One model to measure.

    Attributes:
        name: name of the measurement in the report, such as ``student-pytorch``.
        kind: name of the registered target that measures it, see :mod:`.targets`.
        directory: the checkpoint or variant.
        max_length: maximum number of tokens; longer texts are truncated. A baseline reads whole texts: 0.
        tokenizer_dir: folder of the tokenizer, if not ``directory``; used only by PyTorch variants.
        max_abs_diff: largest difference of logits from the parity step, copied into the measurement.
        fused: number of fused nodes by type, copied into the measurement.
    """

    name: str
    kind: str
    directory: str
    max_length: int
    tokenizer_dir: str | None = None
    max_abs_diff: float | None = None
    fused: dict[str, int] | None = None


@dataclass(frozen=True)
class BenchmarkTexts:
    """Texts on which all models are measured, in this order.

    Labels are the task's, as the data has them; classes are indices into ``label_names``. ``label_thresholds`` is the
    section ``export.label_thresholds`` as JSON values; None: every label has the threshold of one half.
    """

    validation_texts: Sequence[TextOrPair]
    validation_labels: Sequence[Any]
    test_texts: Sequence[TextOrPair]
    test_labels: Sequence[Any]
    label_names: Sequence[str]
    out_of_scope_label: str | None = None
    task: str = "single_label"
    label_thresholds: dict[str, Any] | None = None


@dataclass(frozen=True)
class Measurement:
    """Measurement of one model; times in ms, sizes and memory in bytes / 2**20, except for ``files_mb``.

    Times, sizes and memory are None for a model that is not run, whose answers are known (``targets.known_answers``).

    Attributes:
        accuracy, in_scope_accuracy, oos_recall: on the test split, without a threshold; reported, not used to select;
            None for a task without one class for each text.
        validation_accuracy: used by the gate, without a threshold; None likewise.
        metrics: the task's other metrics by name, each on ``validation`` and ``test``; None where it has none. Several
            labels are predicted by a threshold for each: the variant's own, or chosen in the same way for a model
            without.
        with_threshold: result of ``thresholds.measure_threshold`` on the test split, and ``validation_accuracy``; the
            threshold is the variant's own, or selected in the same way for a model without one.
        calibration: ``temperature``, the model's own or fitted on the validation split, and the expected calibration
            error on the test split, without a threshold: ``in_scope_error_before`` and ``_after`` scaling by the
            temperature, and the same for ``out_of_scope``; None for a task without class probabilities.
        session: session options of the model, measured to be faster; None: they were not tuned.
        curves: result of ``thresholds.threshold_curves`` and, as ``reliability``, the bins of
            ``thresholds.reliability`` on the in-scope texts of the test split, scaled; for plots.
        size_mb: weights or graph file on disk.
        compressed_size_mb: the same compressed, where requested.
        files_mb: every file that the runtime reads (graph, weights beside it, tokenizer, settings), in bytes / 10**6;
            None for a model that cannot be sealed.
        latency_ms: mean, std, p50, p90, p99 of the query.
        floor_ms: lower bound for the query on one thread, see ``roofline.floor_ms``: ``bytes`` of weights over
            bandwidth, ``operations`` over rate, and the larger of them, ``floor``. None for models that are not ONNX or
            use more threads, and where the operations of the graph cannot be counted.
        sample_latency_ms: the same over a sample of test texts.
        profile_ms: where the time of the query goes, see ``TextClassifier.profile``, and ``first_call``, the first one
            after loading; None for models that are not ONNX.
        waiting: share of the timing during which the process waited for a processor that others used, 0 to 1, in the
            least disturbed of up to three tries; None where the system does not count it.
        throughput: batch size → texts per second.
        peak_memory_mb: peak memory of the process that classified single texts and batches.
        num_threads: intra-op threads: those of the section ``benchmark``, or the fastest number up to ``max_threads``.
        query: the text timed for ``latency_ms``.
        answers: split (``validation``, ``test``) → predictions on it, ``without_threshold`` and, where there is one,
            ``with_threshold``, packed by ``predictions.pack_answers``; for paired tests.
        metric: the job's metric, where it is not accuracy: its ``name``, its values on ``validation`` and ``test``, and
            ``kind``, ``with_threshold`` or ``without_threshold``, of the predictions; added by ``selection.gate``.
        predictions_changed: share of the validation texts whose prediction differs from the student's.
        against_student, against_teacher: the paired comparison of the metric on the validation split, see
            ``paired_test.PairedDifference``.
        gate: whether its value in the metric is within the limits that a variant must keep: ``passed``, ``failed`` or
            ``inconclusive`` (see ``selection.gate``); None where the gate does not apply.
        teacher_gate: the same for the limit against the teacher.
        verdict: why it was chosen, or why not.
        reused: ``run_id`` of the run that measured it and ``at``, when; None for a measurement of this run.
        training: of a baseline, which is trained before it is measured: ``seconds``, ``num_texts``, ``num_classes``,
            ``features``, what it classifies by, in words, and ``bytes`` of its file; None for every other model.
    """

    name: str
    kind: str
    size_mb: float | None
    latency_ms: dict[str, float] | None
    sample_latency_ms: dict[str, float] | None
    throughput: dict[str, float]
    peak_memory_mb: float | None
    num_threads: int
    query: TextOrPair
    accuracy: float | None = None
    in_scope_accuracy: float | None = None
    oos_recall: float | None = None
    validation_accuracy: float | None = None
    max_abs_diff: float | None = None
    fused: dict[str, int] | None = None
    gate: Outcome | None = None
    teacher_gate: Outcome | None = None
    with_threshold: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    curves: dict[str, Any] | None = None
    answers: dict[str, Any] | None = None
    metric: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    predictions_changed: float | None = None
    against_student: dict[str, Any] | None = None
    against_teacher: dict[str, Any] | None = None
    verdict: str | None = None
    session: dict[str, Any] | None = None
    compressed_size_mb: float | None = None
    files_mb: float | None = None
    profile_ms: dict[str, float] | None = None
    floor_ms: dict[str, float] | None = None
    waiting: float | None = None
    reused: dict[str, str] | None = None
    training: dict[str, Any] | None = None

    @property
    def p50_ms(self) -> float:
        """Median latency of the query; only of a model that was run."""
        assert self.latency_ms is not None
        return self.latency_ms["p50"]

    @property
    def is_disturbed(self) -> bool:
        """Whether other processes disturbed the timing, so that the latency is uncertain."""
        return self.waiting is not None and self.waiting > MOST_WAITING

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Measurement:
        """Read a measurement written by :meth:`to_json`; unknown keys are ignored."""
        known = {field.name for field in fields(cls)}
        given = {name: value for name, value in values.items() if name in known}
        return cls(**{**given, "query": from_json(values["query"])})


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
        leave_out: called with the name of an optional model that cannot be measured, and why; None: it raises as well.

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
                if leave_out is None or not target.is_optional:
                    raise
                _log.warning("%s", error)
                leave_out(spec.name, str(error))
                continue
            if keep is not None:
                keep(result, scratch / LOGITS_FILE)
        measured.append(result)
        report(_progress_of(result, len(measured), len(specs)))
    return measured


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
    # In a separate process, because the compared sessions would count towards the model's memory.
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
    if not targets.get(spec.kind).is_onnx or not config.tune_session:
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
    if not targets.get(spec.kind).is_onnx or not config.floors or config.num_threads != 1:
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
    from .targets.outputs import ScoredModel
    from .worker import judge

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
