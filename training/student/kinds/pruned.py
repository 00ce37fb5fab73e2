"""The kind ``pruned``: a trained convolution with its most important filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from ....errors import ModelError
from ...section import Name, Width
from ...tasks import SINGLE_LABEL, Task
from .attention_free import AttentionFreeStudent
from .base import STUDENT_KINDS, BuiltStudent, StudentConfig, StudentInputs
from .convolution import filters_in_words

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ...models.convolution import ConvolutionConfig


@STUDENT_KINDS.register
class PrunedStudent(StudentConfig):
    """A student of kind ``convolution`` that has been trained, without its least important filters."""

    kind: Literal["pruned"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="pruned", description="A trained convolution; `trained` alone selects it."
    )
    trained: Name = Field(
        description="pruned: directory or hub id of a trained student of kind convolution; its table, tokenizer and "
        "remaining weights are kept."
    )
    kept_filters: Width | None = Field(
        default=None,
        description="pruned: filters of each group to keep, the most important ones. Default: all.",
    )

    source_key: ClassVar[str | None] = "trained"
    checkpoint_keys: ClassVar[tuple[tuple[str, ...], ...]] = (("trained",),)
    searched_keys: ClassVar[tuple[str, ...]] = ("kept_filters",)
    job_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = AttentionFreeStudent.job_defaults
    has_layers: ClassVar[bool] = False

    def with_searched(self, values: Mapping[str, Any], teacher_dir: Path) -> Self:
        """Return the section with a trial's number of filters in place of its own."""
        return self.model_copy(update={"kept_filters": values.get("kept_filters", self.kept_filters)})

    def check_shapes(
        self, teacher: PreTrainedConfig, searched: Mapping[str, Sequence[Any]]
    ) -> PreTrainedConfig:
        """Reject a model of another type, and more filters than it has."""
        from ...checkpoints.load import load_config, resolve_checkpoint
        from ...checkpoints.loading import naming

        with naming("student.trained"):
            found = _convolution(load_config(resolve_checkpoint(self.trained)))
        most = max(searched.get("kept_filters", [self.kept_filters or 1]))
        if most > found.num_filters:
            where = (
                "search.space.student.kept_filters" if "kept_filters" in searched else "student.kept_filters"
            )
            raise ModelError(
                f"{where}: {most:,} given, but the trained student has {found.num_filters:,} filters of each window "
                f"size; accepted: 1 to {found.num_filters:,}"
            )
        return found

    def check_pruning(self, source: PreTrainedConfig) -> None:
        """Accept pruning of single weights: of filters and blocks."""

    def check_checkpoints(
        self, teacher: str | None, task: Task = SINGLE_LABEL, max_length: int | None = None
    ) -> None:
        """Reject a damaged checkpoint."""
        from ...checkpoints.inspection import inspect_checkpoint
        from ...checkpoints.load import resolve_checkpoint
        from ...checkpoints.loading import naming

        with naming("student.trained"):
            inspect_checkpoint(resolve_checkpoint(self.trained), task=task, max_length=max_length)

    def shape_in_words(self) -> str:
        """Describe the model, such as ``512 filters of runs/wide/best``."""
        return f"{'all' if self.kept_filters is None else f'{self.kept_filters:,}'} filters of {self.trained}"

    def build(self, inputs: StudentInputs) -> BuiltStudent:
        """Load the trained student and remove filters.

        Its head is kept if it was trained for these labels. The record has ``shape``, and under ``parity`` the change
        of the logits by the removed filters (None without texts, or if the head is new).

        Raises:
            ModelError: The checkpoint cannot be used, or has fewer filters.
        """
        from ...models.convolution import filter_importance, keep_filters
        from ...models.tied_embedding_rows import num_distinct_rows
        from ..logit_change import StepParity
        from ..source import load_source
        from ..width import highest

        model: Any
        model, tokenizer, has_head = load_source(self.trained, inputs, "student.trained")
        config = _convolution(model.config)
        parity = StepParity.of_student(inputs, has_head=has_head)
        if self.kept_filters is not None and self.kept_filters < config.num_filters:
            parity.before(model, tokenizer)
            keep_filters(model, highest(filter_importance(model), self.kept_filters))
            parity.after("pruning", model, tokenizer)
        record = {
            "family": config.model_type,
            "num_layers": None,
            "shape": filters_in_words(config),
            "num_embeddings": num_distinct_rows(model),
            "parity": parity.steps,
        }
        return BuiltStudent(model, tokenizer, record)


def _convolution(config: PreTrainedConfig) -> ConvolutionConfig:
    """Return the configuration of a convolution.

    Raises:
        ModelError: It is another model's.
    """
    from ...models.convolution import ConvolutionConfig

    if not isinstance(config, ConvolutionConfig):
        raise ModelError(
            f"student.trained: a model of type {config.model_type!r} given; accepted: the trained student of a job "
            "whose student.kind was convolution; set student.checkpoint for a model with layers"
        )
    return config
