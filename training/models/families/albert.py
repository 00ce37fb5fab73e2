"""ALBERT: several layers share the weights of one, and word pieces have narrower rows than the layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .base import Attention, Capability, Family, FeedForward, register

_SEVERAL = "its inner_group_num is above 1, so that an entry of its list of layers has several layers"


def _limits(config: Any) -> Mapping[Capability, str]:
    return {"heads": _SEVERAL, "rows": _SEVERAL} if config.inner_group_num > 1 else {}


ALBERT = register(
    Family(
        model_types=("albert",),
        classifier="classifier",
        head_reads="first_token",
        pooler=("pooler",),
        layers="encoder.albert_layer_groups",
        shared_layers=True,
        attention=Attention(
            module="albert_layers.0.attention",
            projections=("query", "key", "value"),
            output="albert_layers.0.attention.dense",
            norm="albert_layers.0.attention.LayerNorm",
        ),
        feed_forward=FeedForward(
            first="albert_layers.0.ffn",
            second="albert_layers.0.ffn_output",
            norm="albert_layers.0.full_layer_layer_norm",
        ),
        masked_lm_head=("predictions",),
        unsupported={"first_token": "its layers share weights, so that the last one is no module of its own"},
        limits=_limits,
    )
)
