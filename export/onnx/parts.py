"""Name the parts of a classifier, by which a graph's sizes and errors are reported."""

from __future__ import annotations

from dataclasses import dataclass

WORD_EMBEDDINGS, OTHER_EMBEDDINGS = "word embeddings", "other embeddings"
ATTENTION, FEED_FORWARD, HEAD, OTHER = "attention", "feed-forward", "head", "other"
BLOCKS, FILTERS, HIDDEN_LAYER = "blocks", "filters", "hidden layer"
ATTENTION_PRODUCTS = "attention products"
GROUPS = (
    WORD_EMBEDDINGS,
    OTHER_EMBEDDINGS,
    ATTENTION,
    FEED_FORWARD,
    BLOCKS,
    FILTERS,
    HIDDEN_LAYER,
    HEAD,
    OTHER,
)
"""Groups of parts, from a model's input to its output. A transformer has no blocks, filters and hidden layer."""


@dataclass(frozen=True)
class Part:
    """A part of a classifier.

    Attributes:
        name: Name within the layer or model, such as ``feed-forward in``.
        group: One of ``GROUPS``.
        layer: Layer or block of the encoder, from 0; None outside of those.
    """

    name: str
    group: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.name if self.layer is None else f"layer {self.layer} {self.name}"
