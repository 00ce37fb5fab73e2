"""The ``export`` and ``benchmark`` sections of a job's specification."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ..training.section import BatchSize, Name, PositiveAmount, Section, Share, Text, Threads
from .baselines.config import BaselineName
from .out_of_scope.config import LabelThresholdsConfig, OutOfScopeConfig
from .variants import kinds
from .variants.config import VariantName, VariantsConfig

__all__ = [
    "BenchmarkConfig",
    "ChooseConfig",
    "ExportConfig",
    "LabelThresholdsConfig",
    "OutOfScopeConfig",
    "VariantName",
]


class ChooseConfig(Section):
    """Which variant is sealed: the one with the smallest measurement among those within every limit."""

    minimise: Literal["latency_ms", "size_mb", "peak_memory_mb"] = Field(
        default="latency_ms",
        description="The measurement to minimise; latency is the p50 of one text, from text to label.",
    )
    max_latency_ms: PositiveAmount | None = Field(default=None, description="Maximum latency (p50), in ms.")
    max_size_mb: PositiveAmount | None = Field(
        default=None, description="Maximum size of the graph, in units of 2^20 bytes."
    )
    max_peak_memory_mb: PositiveAmount | None = Field(
        default=None, description="Maximum memory of the measured process, in units of 2^20 bytes."
    )
    min_validation_metric: Share | None = Field(
        default=None, description="Minimum of the job's metric on the validation split."
    )
    max_drop_from_student: Share | None = Field(
        default=0.01,
        description="Maximum loss of the job's metric on the validation split against the student, from which the "
        "variants are made; null: no limit.",
    )
    max_drop_from_teacher: Share | None = Field(
        default=0.02,
        description="Maximum loss of the job's metric on the validation split against the teacher. If every variant "
        "exceeds it, the job still finishes, with a warning that says what to change; null: no limit.",
    )
    strict: bool = Field(
        default=False,
        description="Whether a paired non-inferiority test must show that a loss is within its limit (of accuracy a "
        "score test, of any other metric a bootstrap). false: it is enough that the measured loss is; where the test "
        "does not show it, the verdict is *inconclusive*.",
    )
    confidence: float = Field(
        default=0.95,
        gt=0.5,
        lt=1,
        description="Confidence of that test, one-sided; also of the confidence limits on the validation split.",
    )
    accuracy: Literal["without_threshold", "with_threshold"] | None = Field(
        default=None,
        description="Which predictions the limits apply to; with_threshold: each model with its own out-of-scope "
        "threshold. Default: as the artifact predicts, with a threshold where there is one.",
    )


class ExportConfig(VariantsConfig):
    """Which variants to build from the best checkpoint, and which of them to seal."""

    choose: ChooseConfig = Field(
        default_factory=ChooseConfig, description="Which variant is sealed, and its limits."
    )
    out_of_scope: OutOfScopeConfig | None = Field(
        default_factory=OutOfScopeConfig,
        description="Threshold for out-of-scope texts; there is none without an out-of-scope label. null: no "
        "threshold.",
    )
    label_thresholds: LabelThresholdsConfig | None = Field(
        default=None,
        description="multi_label: how the threshold of each label is chosen, for each variant on the validation split. "
        "Default of that task: the highest F1. null: one half for every label.",
    )

    @model_validator(mode="before")
    @classmethod
    def _moved(cls, values: Any) -> Any:
        if isinstance(values, dict) and "max_accuracy_drop" in values:
            raise ValueError("max_accuracy_drop is now choose.max_drop_from_student; set it there")
        return values

    @model_validator(mode="after")
    def _has_threshold(self) -> ExportConfig:
        if self.choose.accuracy == "with_threshold" and self.out_of_scope is None:
            raise ValueError(
                "choose.accuracy is with_threshold, but out_of_scope is null: there is no threshold"
            )
        return self

    @field_validator("variants")
    @classmethod
    def _choosable(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError("list each variant once")
        if not any(kinds.get(name).can_be_sealed for name in names):
            accepted = next(each.name for each in kinds.variants() if each.can_be_sealed)
            raise ValueError(f"list at least one that can be sealed, such as {accepted}")
        return names


# Effort -> the defaults that it overrides.
_EFFORTS: dict[str, dict[str, Any]] = {
    "quick": {
        "num_warmups": 3,
        "num_runs": 30,
        "num_sample_texts": 50,
        "tune_session": False,
        "floors": False,
    },
    "thorough": {},
}


class BenchmarkConfig(Section):
    """How the models of the report are measured."""

    effort: Literal["quick", "thorough"] = Field(
        default="thorough",
        description="quick: fewer runs, no session options or floors, a few seconds per model; thorough: accurate "
        "enough for decisions. Sets the defaults of num_warmups, num_runs, num_sample_texts, tune_session and "
        "floors.",
    )
    num_warmups: int = Field(default=10, ge=0, le=10**7, description="Runs before timing.")
    num_runs: int = Field(default=100, ge=1, le=10**7, description="Timed runs of one text.")
    num_sample_texts: int = Field(
        default=200,
        ge=1,
        le=10**7,
        description="Number of texts of the test split, at their own lengths, timed once each.",
    )
    batch_sizes: list[BatchSize] = Field(
        default_factory=lambda: [1, 8, 32],
        min_length=1,
        max_length=100,
        description="Batch sizes at which throughput is measured.",
    )
    num_threads: Threads = Field(default=1, description="Intra-op threads of every model.")
    max_threads: Threads | None = Field(
        default=None,
        description="tune_session: also search for the fastest number of threads up to this, for each ONNX model; "
        "the model is measured and sealed with it.",
    )
    tune_session: bool = Field(
        default=True,
        description="Search for session options that make an ONNX model faster; the model is measured and sealed "
        "with them.",
    )
    floors: bool = Field(
        default=True,
        description="Measure for each ONNX model the minimum time that this machine needs for the timed text (1 to "
        "3 s per model); only with num_threads 1.",
    )
    interleaved: bool = Field(
        default=True,
        description="Time the selected variant once more in turns with the teacher (and the reference), for their "
        "ratio with a 95 % interval; up to 10 s per model, a third of that with effort quick.",
    )
    reuse: bool = Field(
        default=True,
        description="Whether measurements of the same models on this machine, made by other runs of the storage, are "
        "reused; false: measure every model again.",
    )
    query: Text | None = Field(
        default=None, description="The one text that is timed; default: the validation text of median length."
    )
    reference: Literal["bert-base"] | None = Field(
        default=None,
        description="bert-base: also measure that architecture with untrained weights, for latency and size only.",
    )
    baselines: list[BaselineName] = Field(
        default_factory=lambda: ["tfidf-svm"],
        max_length=100,
        description="Classical classifiers to train on the same labelled texts and to measure like the models: the "
        "report states what the selected variant gains over each. []: none.",
    )
    model2vec: Name | None = Field(
        default=None,
        description="Model that the baseline model2vec starts from: a folder, or a name on the hub.",
    )

    @field_validator("baselines")
    @classmethod
    def _once(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError("list each baseline once")
        return names

    @model_validator(mode="before")
    @classmethod
    def _by_effort(cls, values: Any) -> Any:
        effort = values.get("effort", "thorough") if isinstance(values, dict) else None
        return {**_EFFORTS[effort], **values} if isinstance(effort, str) and effort in _EFFORTS else values

    @staticmethod
    def follow_effort(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
        """Return a changed section without what the effort before has implied, so that the new effort's defaults apply.

        Both are the section's values; those of ``after`` need not be valid.
        """
        if after.get("effort") == before["effort"]:
            return after
        implied = BenchmarkConfig(effort=before["effort"]).model_dump(mode="json")
        return {
            name: value
            for name, value in after.items()
            if name == "effort" or value != before.get(name) or value != implied.get(name)
        }

    def implied(self) -> BenchmarkConfig:
        """Return the section with this effort and the defaults that it implies."""
        return BenchmarkConfig(effort=self.effort)
