"""The records of a benchmark: what is measured, on which texts, and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from ...texts import TextOrPair, from_json
from . import targets
from .contention import MOST_WAITING

Outcome = Literal["passed", "failed", "inconclusive"]
"""Outcome of a gate."""


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
        model: name of the model, if it is also measured on a GPU, where ``name`` has the target added.
    """

    name: str
    kind: str
    directory: str
    max_length: int
    tokenizer_dir: str | None = None
    max_abs_diff: float | None = None
    fused: dict[str, int] | None = None
    model: str | None = None

    @property
    def model_name(self) -> str:
        """Name of the model, such as that of a variant."""
        return self.model or self.name

    def on(self, target: str) -> MeasurementSpec:
        """Return the measurement of the same model on a target with a GPU."""
        return replace(self, name=f"{self.name}@{target}", kind=target, model=self.name)


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
        validation_accuracy: used by the gate, without a threshold; None for the same tasks.
        metrics: the task's other metrics by name, each on ``validation`` and ``test``; None where it has none. Several
            labels are predicted by a threshold for each: the variant's own, or chosen in the same way for a model
            without its own.
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
        length_ms: number of tokens → mean, std, p50, p90, p99 of one text of so many, for ``benchmark.lengths``; only
            those for which the model has positions. None: the target supports only one length.
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
        model: name of the model, where the measurement's own has a target added, such as ``onnx-fused-fp16@cuda``.
        num_nodes: number of the graph's nodes by the provider of ONNX Runtime that they run on; None: not known.
        engine_build_s: seconds in which an engine for the GPU was built before anything was timed; None: none was.
        cuda_graphs: ``latency_ms`` and ``throughput`` with CUDA graphs, or ``error``, why there are none; None: the
            target has none.
        training: of a baseline, which is trained before it is measured: ``seconds``, ``num_texts``, ``num_classes``,
            ``features``, their kinds and numbers in words, and ``bytes`` of its file; None for every other model.
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
    length_ms: dict[str, dict[str, float]] | None = None
    floor_ms: dict[str, float] | None = None
    waiting: float | None = None
    reused: dict[str, str] | None = None
    training: dict[str, Any] | None = None
    model: str | None = None
    num_nodes: dict[str, int] | None = None
    engine_build_s: float | None = None
    cuda_graphs: dict[str, Any] | None = None

    @property
    def model_name(self) -> str:
        """Name of the model, such as that of a variant."""
        return self.model or self.name

    @property
    def place(self) -> str:
        """Entry of ``benchmark.targets`` that it was measured for."""
        return targets.get(self.kind).place

    @property
    def p50_ms(self) -> float:
        """Median latency of the query; only of a model that was run."""
        assert self.latency_ms is not None
        return self.latency_ms["p50"]

    @property
    def megabytes(self) -> float:
        """``size_mb``; only of a model that was run."""
        assert self.size_mb is not None
        return self.size_mb

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
