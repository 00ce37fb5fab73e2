"""The ``student`` section of a job's specification."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ..pretraining.config import PretrainingConfig
from ..section import Count, Layers, Name, Section, Seed, Width


class FromTeacherConfig(Section):
    """A student built from some of the teacher's layers."""

    layers: Layers = Field(
        description="Teacher layers to copy, counted from 0, in ascending order.", min_length=1
    )


class VocabularyConfig(Section):
    """The word pieces that a student keeps: those of train and ``data.unlabelled``, and those that spell the others."""

    min_count: Count = Field(default=1, description="Keep pieces that occur at least this many times.")
    size: Count | None = Field(
        default=None, description="Keep at most this many: those of train first, frequent before rare ones."
    )
    others: Literal["spelled", "nearest"] = Field(
        default="spelled",
        description="What happens to the other pieces. spelled: they are removed, and shorter pieces spell their "
        "words; nearest: each shares the embedding of the most similar kept piece, and the tokenizer does not "
        "change.",
    )


class WidthConfig(Section):
    """Number of attention heads and feed-forward rows to keep, the same in every layer."""

    intermediate_size: Width | None = Field(
        default=None, description="Rows of the feed-forward part. Default: all."
    )
    num_attention_heads: Width | None = Field(default=None, description="Attention heads. Default: all.")


class StudentConfig(Section):
    """The student to train: exactly one of checkpoint and from_teacher."""

    checkpoint: Name | None = Field(default=None, description="A pretrained encoder: directory or hub id.")
    layers: Layers | None = Field(
        default=None,
        description="checkpoint: which of its layers to keep, from 0, in ascending order. Default: all.",
    )
    from_teacher: FromTeacherConfig | None = Field(
        default=None, description="Copy embeddings, selected layers, pooler and head from the teacher."
    )
    seed: Seed = Field(
        default=0, description="Seed of weights that are not copied. Default: the job's `seed`."
    )
    vocabulary: VocabularyConfig | None = Field(
        default=None,
        description="Trim the vocabulary and its embeddings before training; no text becomes unknown.",
    )
    width: WidthConfig | None = Field(
        default=None,
        description="Keep only the most important attention heads and feed-forward rows of each layer, before "
        "training.",
    )
    pretraining: PretrainingConfig | None = Field(
        default=None,
        description="Train the encoder on train and data.unlabelled, without labels, before its vocabulary is trimmed.",
    )

    @property
    def has_own_pieces(self) -> bool:
        """Whether its word pieces differ from the teacher's."""
        trimmed = self.vocabulary is not None and self.vocabulary.others == "spelled"
        return self.checkpoint is not None or trimmed

    @model_validator(mode="before")
    @classmethod
    def _one(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        named = [key for key in ("checkpoint", "from_teacher") if values.get(key) is not None]
        if len(named) > 1:
            raise ValueError("checkpoint and from_teacher are both given; set one to null")
        if values.get("layers") is not None and "checkpoint" not in named:
            raise ValueError(
                "layers are those of a checkpoint; for the teacher's give from_teacher: {layers: …}"
            )
        return values if named else {**values, "from_teacher": {"layers": [0, 3]}}
