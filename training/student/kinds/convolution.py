"""The kind ``convolution``: filters over word pieces, pooled, without attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from ...section import Width
from .attention_free import AttentionFreeStudent
from .base import STUDENT_KINDS

if TYPE_CHECKING:
    from ...models.convolution import ConvolutionConfig


def _ascending(sizes: list[int]) -> list[int]:
    if sizes != sorted(set(sizes)):
        raise ValueError("expected each size once, in ascending order, such as [1, 2, 3]")
    return sizes


WindowSize = Annotated[int, Field(ge=1, le=64)]
WindowSizes = Annotated[list[WindowSize], Field(min_length=1, max_length=16), AfterValidator(_ascending)]

_OF_FILTERS = ("window_sizes", "num_filters", "num_blocks", "block_size", "block_window_size", "pooling")


@STUDENT_KINDS.register
class ConvolutionStudent(AttentionFreeStudent):
    """A table of word pieces, filters over windows of them, pooling, and a hidden layer."""

    kind: Literal["convolution"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="convolution", description="Filters over word pieces, without attention."
    )
    window_sizes: WindowSizes = Field(
        default=[3],
        description="convolution: word pieces that a filter reads, in ascending order, one number for each group of "
        "filters.",
    )
    num_filters: Width = Field(default=384, description="convolution: filters of each group.")
    num_blocks: int = Field(
        default=0,
        ge=0,
        le=64,
        description="convolution: residual blocks over the word pieces before the filters.",
    )
    block_size: Width = Field(default=256, description="convolution: columns inside a block.")
    block_window_size: WindowSize = Field(
        default=3, description="convolution: word pieces that a block reads."
    )
    pooling: Literal["max_mean", "max"] = Field(
        default="max_mean",
        description="convolution: what is kept of a filter over the text: its maximum, or its mean as well.",
    )

    searched_keys: ClassVar[tuple[str, ...]] = ("hidden_size", *_OF_FILTERS, "classifier_size")

    def new_config(self, shapes: Mapping[str, Any]) -> ConvolutionConfig:
        """Return the model's configuration."""
        from ...models.convolution import ConvolutionConfig

        own = {name: getattr(self, name) for name in _OF_FILTERS}
        return ConvolutionConfig(**self.common_sizes(), **own, **shapes)

    def shape_in_words(self) -> str:
        """Describe the model, such as ``384 filters over 3 word pieces of 128 dimensions``."""
        return filters_in_words(self.new_config({}))


def filters_in_words(shape: ConvolutionConfig) -> str:
    """Describe a convolution, such as ``384 filters over 3 word pieces of 128 dimensions``."""
    sizes = ", ".join(map(str, shape.window_sizes))
    each = " each" if len(shape.window_sizes) > 1 else ""
    pieces = "word piece" if shape.window_sizes == [1] else "word pieces"
    text = f"{shape.num_filters} filters{each} over {sizes} {pieces} of {shape.hidden_size} dimensions"
    if shape.num_blocks:
        text += f", {shape.num_blocks} residual block{'s' if shape.num_blocks > 1 else ''}"
    return text
