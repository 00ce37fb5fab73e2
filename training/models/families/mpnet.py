"""MPNet: absolute positions that begin after the padding id, and a bias of each head for relative ones."""

from __future__ import annotations

from .base import Attention, Family, FeedForward, register

_BIAS = "a bias of relative positions, one for each head, is shared by all layers"

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
        masked_lm_head=("lm_head",),
        unsupported={"heads": _BIAS, "first_token": _BIAS, "fused_attention": _BIAS},
    )
)
