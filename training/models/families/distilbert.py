"""DistilBERT: BERT without token types and pooler, with its own module names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import Attention, Family, FeedForward, register

if TYPE_CHECKING:
    from torch import Tensor


def after_attention(layer: Any, context: Tensor, hidden_states: Tensor) -> Tensor:
    """Compute the rest of a layer, as described in ``Family.after_attention``."""
    attended = layer.sa_layer_norm(layer.attention.out_lin(context) + hidden_states)
    return layer.output_layer_norm(layer.ffn(attended) + attended)


DISTILBERT = register(
    Family(
        model_types=("distilbert",),
        classifier="classifier",
        head_reads="first_token",
        intermediate_size="hidden_dim",
        pooler=("pre_classifier",),
        layers="transformer.layer",
        attention=Attention(
            module="attention",
            projections=("q_lin", "k_lin", "v_lin"),
            output="attention.out_lin",
            norm="sa_layer_norm",
        ),
        feed_forward=FeedForward(first="ffn.lin1", second="ffn.lin2", norm="output_layer_norm"),
        after_attention=after_attention,
        masked_lm_head=("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
    )
)
