"""The rows of the report: each measured in a fresh process of its own, one after another."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError, RunFailedError
from ...storage.temporary import temporary_directory
from . import targets
from .measurements import median_text
from .processes import call_in_process, run_module
from .targets.base import Preparation, Prepared

if TYPE_CHECKING:
    from ..config import BenchmarkConfig
    from ..out_of_scope.thresholds import ScopeGoal

_log = logging.getLogger(__name__)
SECONDS_OF_RATE = 0.2  # that each of the three rates of a floor is measured
NUM_COMPARED_TEXTS = 32  # whose logits show whether a session option changes them


@dataclass(frozen=True)
class RowSpec:
    """One row to measure.

    Attributes:
        name: of the row in the report, as ``student-pytorch``.
        kind: name of the registered target that it is measured in, see :mod:`.targets`.
        directory: the checkpoint or variant.
        max_length: tokens after which a text is cut.
        tokenizer_dir: where the tokenizer is, if not in ``directory``; PyTorch variants alone read it.
        max_abs_diff: largest difference of logits from the parity step, carried into the measurement.
        fused: fused nodes of the graph, counted by kind, carried likewise.
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
    """The texts that every row sees, in the same order; labels count into ``label_names``, and are the task's."""

    validation_texts: Sequence[str]
    validation_labels: Sequence[int]
    test_texts: Sequence[str]
    test_labels: Sequence[int]
    label_names: Sequence[str]
    out_of_scope_label: str | None = None
    task: str = "single_label"


@dataclass(frozen=True)
class RowMeasurement:
    """What was measured of one row; times in ms, sizes and memory in bytes / 2**20.

    Attributes:
        accuracy, in_scope_accuracy, oos_recall: on the test split, without a threshold; reported, never chosen by.
        validation_accuracy: what the gate reads, without a threshold.
        with_threshold: what ``thresholds.measure_threshold`` says of the row's threshold on the test split, and its
            ``validation_accuracy``; the threshold is the variant's own, or chosen likewise for a row without one.
        calibration_error: the expected calibration error on the test split, without a threshold.
        session: session options that the row ran with, measured to be faster; none: they were not looked for.
        curves: what ``thresholds.threshold_curves`` and, as ``reliability``, the bins of ``thresholds.reliability``
            say on the test split; for pictures.
        size_mb: weights or graph file on disk.
        compressed_size_mb: the same compressed, where that was asked for.
        latency_ms: mean, std, p50, p90, p99 of the query.
        floor_ms: what the machine needs at least for the query on one thread, as ``floors.floor_ms`` says it: its
            weights' ``bytes`` over bandwidth, its ``operations`` over rate, and the larger of them, ``floor``. None for
            rows that are not ONNX or have more threads, and where something in the graph cannot be counted.
        sample_latency_ms: the same over a sample of test texts.
        throughput: batch size → texts a second.
        peak_memory_mb: most memory of the process that classified single texts and batches.
        num_threads: intra-op threads: those of the section ``benchmark``, or where it has ``max_threads`` the fastest.
        query: the text behind ``latency_ms``.
        answers: what each text of the validation split got, ``without_threshold`` and, where there is one,
            ``with_threshold``, packed by ``answers.pack_answers``; for paired tests.
        predictions_changed: share of the validation texts whose label is not the student's.
        against_student, against_teacher: what ``paired.compare_paired`` says of the validation split.
        passed_gate: whether it keeps the limits on accuracy; ``None`` where the gate does not apply.
        verdict: why it was chosen, or why not.
    """

    name: str
    kind: str
    size_mb: float
    latency_ms: dict[str, float]
    sample_latency_ms: dict[str, float]
    throughput: dict[str, float]
    peak_memory_mb: float
    num_threads: int
    query: str
    accuracy: float | None = None
    in_scope_accuracy: float | None = None
    oos_recall: float | None = None
    validation_accuracy: float | None = None
    max_abs_diff: float | None = None
    fused: dict[str, int] | None = None
    passed_gate: bool | None = None
    with_threshold: dict[str, Any] | None = None
    calibration_error: float | None = None
    curves: dict[str, Any] | None = None
    answers: dict[str, Any] | None = None
    predictions_changed: float | None = None
    against_student: dict[str, Any] | None = None
    against_teacher: dict[str, Any] | None = None
    verdict: str | None = None
    session: dict[str, Any] | None = None
    compressed_size_mb: float | None = None
    floor_ms: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """The measurement as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RowMeasurement:
        """Read what :meth:`to_json` gave; keys of other versions are left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


def measure_rows(
    rows: Sequence[RowSpec],
    texts: BenchmarkTexts,
    config: BenchmarkConfig,
    *,
    goal: ScopeGoal | None = None,
    compressed: bool = False,
    on_row: Callable[[RowMeasurement], None] | None = None,
) -> list[RowMeasurement]:
    """Measure every row, one after another, each in a fresh process with the same number of threads.

    The caller sees to it that nothing else runs on this machine meanwhile.

    Args:
        rows: what to measure.
        texts: validation and test split.
        config: the ``benchmark`` section.
        goal: what out-of-scope thresholds are chosen for; none: nothing is measured with a threshold.
        compressed: also measure the size after compression, which takes a while.
        on_row: told of each row as soon as it is measured.

    Raises:
        InputError: a split is empty.
        RunFailedError: a row's process failed; the message names the row and gives its last words.
    """
    if not texts.validation_texts or not texts.test_texts:
        raise InputError("validation and test texts must hold at least one text each")
    query = config.query or median_text(texts.validation_texts)
    measured = []
    for row in rows:
        _log.info("benchmark: %s", row.name)
        with temporary_directory("benchmark") as scratch:
            result = _measure_row(row, texts, config, query, goal, scratch, compressed=compressed)
        measured.append(result)
        if on_row is not None:
            on_row(result)
    return measured


def _measure_row(
    row: RowSpec,
    texts: BenchmarkTexts,
    config: BenchmarkConfig,
    query: str,
    goal: ScopeGoal | None,
    scratch: Path,
    *,
    compressed: bool,
) -> RowMeasurement:
    prepared = _prepare(row, len(texts.label_names), config.num_threads, scratch)
    # In a process of its own: the sessions that it compares would count as the row's memory.
    session, num_threads = _tuned(row, texts, config, query)
    config = config.model_copy(update={"num_threads": num_threads})
    directory = row.directory if prepared is None else prepared.directory
    spec = {
        "row": {**asdict(row), "directory": directory, "session": session},
        "texts": {field.name: _plain(getattr(texts, field.name)) for field in fields(texts)},
        "config": config.model_dump(),
        "query": query,
        "compressed": compressed,
        "goal": None if goal is None else {"config": goal.config.model_dump(), "label": goal.label},
    }
    spec_file, out_file = scratch / "spec.json", scratch / "out.json"
    spec_file.write_text(json.dumps(spec), encoding="utf-8")
    arguments = [str(spec_file), str(out_file)]
    run_module("benchmark.worker", arguments, what=row.name, num_threads=config.num_threads)
    values = json.loads(out_file.read_text(encoding="utf-8"))
    if prepared is not None:
        values["size_mb"] = prepared.size_mb
    return RowMeasurement(
        **values,
        name=row.name,
        kind=row.kind,
        num_threads=config.num_threads,
        query=query,
        max_abs_diff=row.max_abs_diff,
        fused=row.fused,
        session=session,
        floor_ms=_floor_ms(row, config, query),
    )


def _prepare(row: RowSpec, num_labels: int, num_threads: int, scratch: Path) -> Prepared | None:
    """Make what is measured, for a target that does not open the row's own directory."""
    prepare = targets.get(row.kind).prepare
    if prepare is None:
        return None
    return prepare(Preparation(row.name, row.directory, num_labels, num_threads, scratch))


def _tuned(
    row: RowSpec, texts: BenchmarkTexts, config: BenchmarkConfig, query: str
) -> tuple[dict[str, Any] | None, int]:
    """Session options and threads that a row is to be measured with."""
    if not targets.get(row.kind).is_onnx or not config.tune_session:
        return None, config.num_threads
    arguments = {
        "directory": row.directory,
        "query": query,
        "texts": list(texts.validation_texts[:NUM_COMPARED_TEXTS]),
        "num_threads": config.num_threads,
        "max_threads": config.max_threads,
    }
    most = max(config.num_threads, config.max_threads or 1)
    tuned = call_in_process(
        "benchmark.session_tuning", "tune_session", arguments, what=row.name, num_threads=most
    )
    return tuned["session"], tuned["num_threads"]


def _floor_ms(row: RowSpec, config: BenchmarkConfig, query: str) -> dict[str, float] | None:
    if not targets.get(row.kind).is_onnx or not config.floors or config.num_threads != 1:
        return None
    arguments = {"directory": row.directory, "text": query, "seconds": SECONDS_OF_RATE}
    try:
        return call_in_process(
            "benchmark.roofline", "floor_of_text", arguments, what="the floor", num_threads=1
        )
    except RunFailedError as error:  # the row is worth having without
        _log.warning("%s: no floor: %s", row.name, error)
        return None


def _plain(value: Any) -> Any:
    """A column of texts or labels as a list; NumPy's integers as Python's."""
    if value is None or isinstance(value, str):
        return value
    return [item if isinstance(item, str) else int(item) for item in value]
