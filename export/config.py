"""The ``export`` and ``benchmark`` sections of a job's specification."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ..training.section import PositiveAmount, Section, Share
from .benchmark.config import BenchmarkConfig
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
