"""The ``export`` and ``benchmark`` sections of a job's specification."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ..training.section import BatchSize, Name, PositiveAmount, Section, Share, ShareBelowOne, Text, Threads
from .runtime.scores import ScoreName

VariantName = Literal[
    "student-pytorch-int8",
    "onnx",
    "onnx-fp16",
    "onnx-int8",
    "onnx-int8-per-channel",
    "onnx-int8-reduced-range",
    "onnx-int8-embeddings-4bit",
    "onnx-static-minmax",
    "onnx-static-percentile",
    "onnx-static-entropy",
    "onnx-weights-8bit",
    "onnx-weights-4bit",
    "onnx-fused",
    "onnx-fused-fp16",
    "onnx-fused-int8",
    "onnx-fused-int8-per-channel",
    "onnx-fused-int8-reduced-range",
    "onnx-fused-int8-embeddings-4bit",
    "onnx-fused-weights-8bit",
    "onnx-fused-weights-4bit",
]


class OutOfScopeConfig(Section):
    """A threshold below which a text is told to be out of scope, chosen for each variant on the validation split."""

    score: ScoreName = Field(
        default="energy",
        description="What is held against the threshold; all three are high for known texts.",
    )
    in_scope_weight: Share = Field(
        default=0.75,
        description="w of the goal: the most of w · in-scope accuracy + (1 - w) · out-of-scope recall.",
    )
    max_in_scope_refused: ShareBelowOne | None = Field(
        default=None,
        description="In place of that goal: refuse at most this share of the in-scope texts.",
    )
    label: Name | None = Field(
        default=None,
        description="What refused texts are called where the data have no out-of-scope label.",
    )


class StaticConfig(Section):
    """Which parts of a statically quantized graph are left in 32 bits."""

    max_error: PositiveAmount = Field(
        default=0.005,
        description="Mean squared error of the logits on training texts, as a share of their variance, above which the "
        "most sensitive parts are left out.",
    )
    max_excluded: int = Field(
        default=2,
        ge=0,
        le=100_000,
        description="Most parts (a layer's query, key and value; a layer's feed-forward out; …) that are left out.",
    )


class ChooseConfig(Section):
    """Which of the variants is sealed: the least of one measurement among those that keep every limit."""

    minimise: Literal["latency_ms", "size_mb", "peak_memory_mb"] = Field(
        default="latency_ms",
        description="What is to be least; latency is the p50 of one text, text in to label out.",
    )
    max_latency_ms: PositiveAmount | None = Field(default=None, description="Most latency (p50), in ms.")
    max_size_mb: PositiveAmount | None = Field(
        default=None, description="Most size of the graph, in 2^20 bytes."
    )
    max_peak_memory_mb: PositiveAmount | None = Field(
        default=None, description="Most memory of the measured process, in 2^20 bytes."
    )
    min_validation_accuracy: Share | None = Field(
        default=None, description="Least accuracy measured on the validation split."
    )
    max_drop_from_student: Share | None = Field(
        default=0.01,
        description="Most validation accuracy that a variant may lose against the student; null: any.",
    )
    max_drop_from_teacher: Share | None = Field(
        default=None, description="The same against the teacher; null: any."
    )
    gate: Literal["non_inferior", "point"] = Field(
        default="non_inferior",
        description="non_inferior: a drop is kept when it is shown to be, by a paired test on the validation split; "
        "point: when the two accuracies differ by no more.",
    )
    confidence: float = Field(
        default=0.95,
        gt=0.5,
        lt=1,
        description="Of that test, one-sided; also of the limits that are reported.",
    )
    accuracy: Literal["without_threshold", "with_threshold"] = Field(
        default="without_threshold",
        description="Which accuracy the limits are for; with_threshold: each row with its own out-of-scope threshold.",
    )


class ExportConfig(Section):
    """Which variants to make of the best checkpoint, and what they must hold."""

    variants: list[VariantName] = Field(
        default_factory=lambda: [
            "student-pytorch-int8",
            "onnx",
            "onnx-fused",
            "onnx-int8",
            "onnx-int8-per-channel",
        ],
        min_length=1,
        max_length=100,
        description="Variants to make; student-pytorch is always measured.",
    )

    @model_validator(mode="before")
    @classmethod
    def _moved(cls, values: Any) -> Any:
        if isinstance(values, dict) and "max_accuracy_drop" in values:
            raise ValueError("max_accuracy_drop is now choose.max_drop_from_student; write it there")
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
        if len(set(names)) < len(names) or not any(name.startswith("onnx") for name in names):
            raise ValueError("name each variant once, and at least one whose name begins with onnx")
        return names

    choose: ChooseConfig = Field(
        default_factory=ChooseConfig, description="Which of them is sealed, and what it must hold."
    )
    parity_tolerance: PositiveAmount = Field(
        default=1e-3,
        description="Largest absolute difference of logits that a 32-bit ONNX variant may show.",
    )
    opset: int = Field(
        default=18,
        ge=18,
        le=99,
        description="Version of ONNX's operators in the graphs; 4-bit embeddings need 21 and take it by themselves.",
    )
    static: StaticConfig = Field(
        default_factory=StaticConfig, description="What the onnx-static variants leave in 32 bits."
    )
    sensitivity: bool = Field(
        default=False,
        description="Measure on training texts what each part of the graph loses to 8 bits, for the report: of "
        "onnx-int8, onnx-int8-per-channel and the onnx-static variants.",
    )
    out_of_scope: OutOfScopeConfig | None = Field(
        default_factory=OutOfScopeConfig,
        description="Threshold for out-of-scope texts; without an out-of-scope label there is none. null: none at all.",
    )


class BenchmarkConfig(Section):
    """How the rows of the report are measured."""

    num_warmups: int = Field(default=10, ge=0, le=10**7, description="Runs before timing.")
    num_runs: int = Field(default=100, ge=1, le=10**7, description="Timed runs of one text.")
    num_sample_texts: int = Field(
        default=200,
        ge=1,
        le=10**7,
        description="Texts of the test split, of their own lengths, timed once each.",
    )
    batch_sizes: list[BatchSize] = Field(
        default_factory=lambda: [1, 8, 32], min_length=1, max_length=100, description="For throughput."
    )
    num_threads: Threads = Field(default=1, description="Intra-op threads of every row.")
    max_threads: Threads | None = Field(
        default=None,
        description="tune_session: also look for the number of threads, up to this, that makes an ONNX row fastest; "
        "the row is timed and shipped with it.",
    )
    tune_session: bool = Field(
        default=True,
        description="Look for session options that make an ONNX row faster; the row is timed and shipped with them.",
    )
    floors: bool = Field(
        default=True,
        description="Measure for each ONNX row what this machine needs at least for the one text that is timed, 1 to "
        "3 s a row; with num_threads 1 only.",
    )
    query: Text | None = Field(
        default=None, description="The one text that is timed; default: the validation text of median length."
    )
    reference: Literal["bert-base"] | None = Field(
        default=None,
        description="bert-base: time that architecture too, with untrained weights, for latency and size only.",
    )
