"""Sections that make a student of transformer layers smaller: ``student.vocabulary`` and ``student.width``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..section import Count, Section, Width


class VocabularyConfig(Section):
    """The word pieces that a student keeps: those of train and ``data.unlabelled``, and those that spell the others."""

    min_count: Count = Field(default=1, description="Keep pieces that occur there at least so often.")
    size: Count | None = Field(
        default=None, description="Keep at most so many: train's first, the frequent before the rare."
    )
    others: Literal["spelled", "nearest"] = Field(
        default="spelled",
        description="The other pieces. spelled: they are gone, and shorter ones spell their words; nearest: each "
        "shares the embedding of the most similar piece that is kept, and the tokenizer stays as it is.",
    )


class WidthConfig(Section):
    """How many heads and feed-forward rows a student keeps, the same in every layer."""

    intermediate_size: Width | None = Field(
        default=None, description="Rows of the feed-forward part. Default: all."
    )
    num_attention_heads: Width | None = Field(default=None, description="Attention heads. Default: all.")
