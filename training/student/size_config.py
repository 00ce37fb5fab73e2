"""Sections that make a student smaller: ``student.vocabulary``, and ``student.width`` of transformer layers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..section import Count, Section, Width


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
