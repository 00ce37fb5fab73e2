"""BERT: its head reads the first token's state through a pooler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import Attention, Family, FeedForward, register

if TYPE_CHECKING:
    from torch import Tensor


def after_attention(layer: Any, context: Tensor, hidden_states: Tensor) -> Tensor:
    """Compute the rest of a layer, as described in ``Family.after_attention``."""
    attended = layer.attention.output(context, hidden_states)
    return layer.output(layer.intermediate(attended), attended)


BERT = register(
    Family(
        model_types=("bert",),
        classifier="classifier",
        head_reads="first_token",
        pooler=("pooler",),
        layers="encoder.layer",
        attention=Attention(
            module="attention.self",
            projections=("query", "key", "value"),
            output="attention.output.dense",
            norm="attention.output.LayerNorm",
        ),
        feed_forward=FeedForward(first="intermediate.dense", second="output.dense", norm="output.LayerNorm"),
        after_attention=after_attention,
        masked_lm_head=("cls",),
    )
)
