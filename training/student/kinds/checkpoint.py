"""The kind ``checkpoint``: a pretrained encoder, whole or some of its layers, with its own tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ...section import Layers, Name
from ...tasks import SINGLE_LABEL, Task
from .base import STUDENT_KINDS, StudentInputs
from .transformer import TransformerStudent

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@STUDENT_KINDS.register
class CheckpointStudent(TransformerStudent):
    """A pretrained encoder; its head is new, unless it was trained for the same labels."""

    kind: Literal["checkpoint"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="checkpoint", description="A pretrained encoder; `checkpoint` alone selects it."
    )
    checkpoint: Name = Field(description="checkpoint: the encoder: directory or hub id.")
    layers: Layers | None = Field(
        default=None,
        description="checkpoint: which of its layers to keep, from 0, in ascending order. Default: all.",
    )

    source_key: ClassVar[str | None] = "checkpoint"
    checkpoint_keys: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("checkpoint",),
        *TransformerStudent.checkpoint_keys,
    )
    layers_of: ClassVar[str] = "the checkpoint"

    def source_config(self, teacher: PreTrainedConfig) -> PreTrainedConfig:
        """Return the checkpoint's configuration."""
        from ...checkpoints.load import load_config, resolve_checkpoint
        from ...checkpoints.loading import naming
        from ...models.families import family_of

        with naming("student.checkpoint"):
            found = load_config(resolve_checkpoint(self.checkpoint))
            family_of(found, "student.checkpoint")
        return found

    def check_checkpoints(
        self, teacher: str | None, task: Task = SINGLE_LABEL, max_length: int | None = None
    ) -> None:
        """Reject a damaged checkpoint, and one that does not fit the section's other keys."""
        from ...checkpoints.inspection import inspect_checkpoint
        from ...checkpoints.load import resolve_checkpoint
        from ...checkpoints.loading import naming

        with naming("student.checkpoint"):
            inspect_checkpoint(resolve_checkpoint(self.checkpoint), task=task, max_length=max_length)
        super().check_checkpoints(teacher, task, max_length)

    def load_source(self, inputs: StudentInputs) -> tuple[PreTrainedModel, Any, bool]:
        """Load the checkpoint; its head is newly initialized, unless it was trained for these labels."""
        from ...checkpoints.load import load_config, resolve_checkpoint
        from ...models.families import family_of
        from ..source import load_source

        family_of(load_config(resolve_checkpoint(self.checkpoint)))
        return load_source(self.checkpoint, inputs, "student.checkpoint")
