"""ModernBERT: rotary positions, gated feed-forward parts, normalization first, and layers that attend to neighbours."""

from __future__ import annotations

from .base import Attention, Family, FeedForward, register

_ROTARY = "one matrix gives query, key and value, and its attention turns the first two by their positions"

MODERNBERT = register(
    Family(
        model_types=("modernbert",),
        classifier="classifier",
        head_reads="every_token",  # classifier_pooling may be mean
        word_embeddings="embeddings.tok_embeddings",
        position_embeddings=None,
        pooler=("final_norm", "head"),
        layers="layers",
        own_first_layer=True,
        attention=Attention(module="attn", projections=("Wqkv",), output="attn.Wo", norm="attn_norm"),
        feed_forward=FeedForward(first="mlp.Wi", second="mlp.Wo", norm="mlp_norm"),
        masked_lm_head=("head", "decoder"),
        takes_made_mask=False,  # layers that attend to neighbours need a mask of their own
        unsupported={"first_token": _ROTARY},
    )
)
