"""The kind ``static``: a weighted mean of word pieces, and of hashed pairs of them, without attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ....errors import ModelError
from ...section import Width
from .attention_free import AttentionFreeStudent
from .base import STUDENT_KINDS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ...models.static import StaticConfig


@STUDENT_KINDS.register
class StaticStudent(AttentionFreeStudent):
    """A table of word pieces with a learnt weight each, their weighted mean, and a hidden layer."""

    kind: Literal["static"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="static",
        description="A weighted mean of word pieces, and of pairs of them, without attention.",
    )
    hidden_size: Width = Field(default=256, description="static: columns of the table of word pieces.")
    pooling: Literal["max_mean", "mean"] = Field(
        default="max_mean",
        description="static: what is kept of a text: the weighted mean of its word pieces, or their maximum as well.",
    )

    hashed_bigrams: int = Field(
        default=0,
        ge=0,
        le=10**7,
        description="static: rows of the table for pairs of consecutive word pieces, which carry word order; pairs of "
        "equal hash share one. 0: no pairs.",
    )

    searched_keys: ClassVar[tuple[str, ...]] = ("hidden_size", "pooling", "hashed_bigrams", "classifier_size")

    def check_pruning(self, source: PreTrainedConfig) -> None:
        """Reject pruning: there are no matrices before the hidden layer."""
        raise ModelError(
            "training.pruning: refused for a student of kind static, which has a table and a head but no matrices to "
            "prune; remove the section, or set student.kind to convolution"
        )

    def new_config(self, shapes: Mapping[str, Any]) -> StaticConfig:
        """Return the model's configuration."""
        from ...models.static import StaticConfig

        own = {"pooling": self.pooling, "hashed_bigrams": self.hashed_bigrams}
        return StaticConfig(**self.common_sizes(), **own, **shapes)

    def shape_in_words(self) -> str:
        """Describe the model, such as ``mean of word pieces of 256 dimensions``."""
        pooled = "mean" if self.pooling == "mean" else "maximum and mean"
        pairs = f" and {self.hashed_bigrams:,} hashed pairs" if self.hashed_bigrams else ""
        return f"{pooled} of word pieces{pairs} of {self.hidden_size} dimensions"
