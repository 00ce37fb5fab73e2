"""DeBERTa-v2 and v3: attention to content and to relative positions, which all layers look up in one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .base import Attention, Capability, Family, FeedForward, register

_POSITIONS = "its attention adds products with relative positions"


def _limits(config: Any) -> Mapping[Capability, str]:
    if config.legacy:
        return {}
    return {"masked_lm": "legacy: false in its config.json, and that head reads the embedding table as well"}


DEBERTA_V2 = register(
    Family(
        model_types=("deberta-v2",),
        classifier="classifier",
        head_reads="first_token",
        pooler=("pooler",),
        other_embeddings=("encoder.rel_embeddings", "encoder.LayerNorm", "encoder.conv"),
        layers="encoder.layer",
        attention=Attention(
            module="attention.self",
            projections=("query_proj", "key_proj", "value_proj"),
            output="attention.output.dense",
            norm="attention.output.LayerNorm",
            position_projections=("pos_key_proj", "pos_query_proj"),
        ),
        feed_forward=FeedForward(first="intermediate.dense", second="output.dense", norm="output.LayerNorm"),
        masked_lm_head=("cls",),
        takes_made_mask=False,
        unsupported={"first_token": _POSITIONS, "fused_attention": _POSITIONS},
        limits=_limits,
    )
)
