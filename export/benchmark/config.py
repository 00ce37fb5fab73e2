"""The section ``benchmark`` of a job's specification."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ...training.section import BatchSize, Name, Section, Text, Threads
from ...training.section_registry import RegisteredName
from ..baselines.config import BaselineName
from . import targets

TargetName = Annotated[str, RegisteredName(targets.places, "a target")]

Length = Annotated[int, Field(ge=4, le=2**20)]
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
    targets: list[TargetName] = Field(
        default_factory=lambda: [targets.CPU],
        min_length=1,
        max_length=100,
        description="Where models are measured. The variant to seal is selected by the measurements of the first, and "
        "those of the others are reported. Each but cpu needs a node with an NVIDIA GPU.",
    )
    gpu_batch_sizes: list[BatchSize] = Field(
        default_factory=lambda: [1, 32, 256, 1024],
        min_length=1,
        max_length=100,
        description="Batch sizes at which throughput on a GPU is measured.",
    )
    lengths: list[Length] = Field(
        default_factory=lambda: [32, 128, 512, 2048],
        max_length=20,
        description="Numbers of tokens at which the latency of one text is measured too, where a model has positions "
        "for so many. []: none.",
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
        "report states what the selected variant gains over each. []: none, the default of tasks that none supports.",
    )
    model2vec: Name | None = Field(
        default=None,
        description="Model that the baseline model2vec starts from: a folder, or a name on the hub.",
    )

    @field_validator("lengths")
    @classmethod
    def _each_length_once(cls, lengths: list[int]) -> list[int]:
        if len(set(lengths)) < len(lengths):
            raise ValueError("list each number once")
        return sorted(lengths)

    @field_validator("baselines")
    @classmethod
    def _once(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError("list each baseline once")
        return names

    @field_validator("targets")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError("list each target once")
        selecting = {each.place for each in targets.TARGETS.values() if each.can_be_sealed}
        if names[0] not in selecting:
            raise ValueError(
                f"{names[0]} is first, but the first selects the variant to seal, and none of its models can be "
                f"sealed; put one of {', '.join(sorted(selecting))} first"
            )
        return names

    @model_validator(mode="before")
    @classmethod
    def _by_effort(cls, values: Any) -> Any:
        effort = values.get("effort", "thorough") if isinstance(values, dict) else None
        return {**_EFFORTS[effort], **values} if isinstance(effort, str) and effort in _EFFORTS else values

    @staticmethod
    def follow_effort(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
        """Return a changed section without the values that the previous effort implied, so that the new defaults apply.

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
