"""MPNet: absolute positions that begin after the padding id, and a bias of each head for relative ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import Attention, Family, FeedForward, register

if TYPE_CHECKING:
    from torch import Tensor


def after_attention(layer: Any, context: Tensor, hidden_states: Tensor) -> Tensor:
    """Compute the rest of a layer, as described in ``Family.after_attention``."""
    attention = layer.attention
    attended = attention.LayerNorm(attention.dropout(attention.attn.o(context)) + hidden_states)
    return layer.output(layer.intermediate(attended), attended)


MPNET = register(
    Family(
        model_types=("mpnet",),
        classifier="classifier.out_proj",
        head_reads="first_token",
        other_embeddings=("encoder.relative_attention_bias",),
        layers="encoder.layer",
        attention=Attention(
            module="attention.attn",
            projections=("q", "k", "v"),
            output="attention.attn.o",
            norm="attention.LayerNorm",
        ),
        feed_forward=FeedForward(first="intermediate.dense", second="output.dense", norm="output.LayerNorm"),
        after_attention=after_attention,
        masked_lm_head=("lm_head",),
        has_position_bias=True,
        unsupported={"heads": "a bias of relative positions, one for each head, is shared by all layers"},
    )
)
