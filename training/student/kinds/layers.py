"""The kind ``layers``: embeddings, some layers, pooler and head of the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from ...section import Layers
from .base import STUDENT_KINDS, StudentInputs
from .transformer import TransformerStudent

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@STUDENT_KINDS.register
class LayersStudent(TransformerStudent):
    """Embeddings, chosen layers, pooler and head copied from the teacher."""

    kind: Literal["layers"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="layers", description="Layers of the teacher."
    )
    layers: Layers = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=[0, 3], description="layers: teacher layers to copy, counted from 0, in ascending order."
    )

    searched_keys: ClassVar[tuple[str, ...]] = ("layers", "num_layers", *TransformerStudent.searched_keys)
    layers_of: ClassVar[str] = "the teacher"

    def with_searched(self, values: Mapping[str, Any], teacher_dir: Path) -> Self:
        """Return the section with a trial's layers (given, or a number of evenly spaced ones), heads and rows."""
        from ..layers import spread_layers

        layers = values.get("layers", self.layers)
        if "num_layers" in values:
            layers = spread_layers(teacher_dir, values["num_layers"])
        return super().with_searched(values, teacher_dir).model_copy(update={"layers": layers})

    def why_teacher_model(self) -> str | None:
        """Return that its layers are copied from the teacher."""
        return (
            "student.kind: layers are copied from a teacher's checkpoint (set student.checkpoint, or student.kind to "
            "convolution or static)"
        )

    def source_config(self, teacher: PreTrainedConfig) -> PreTrainedConfig:
        """Return the teacher's configuration."""
        from ...models.families import family_of

        family_of(teacher, "student.layers")
        return teacher

    def load_source(self, inputs: StudentInputs) -> tuple[PreTrainedModel, Any, bool]:
        """Load the teacher, with its head in the order of the labels."""
        from ...checkpoints.heads import match_labels
        from ...checkpoints.load import load_classifier
        from ...models.families import family_of

        model, tokenizer = load_classifier(inputs.teacher_dir, inputs.task)
        match_labels(model, inputs.label_names, task=inputs.task)
        family_of(model)
        return model, tokenizer, True
