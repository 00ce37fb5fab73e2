"""Compute the parts of DeBERTa's attention that depend only on relative positions once, not for every text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2Encoder


def fold_relative_positions(model: PreTrainedModel, max_length: int) -> PreTrainedModel:
    """Replace each layer's projections of relative positions by their values, in place, and return the model.

    A layer multiplies its table of 2 * span positions with one or two matrices for every text. Only the products that a
    text of ``max_length`` tokens can reach are kept.

    Args:
        model: A model in evaluation mode; without such an encoder it is not changed.
        max_length: Maximum number of tokens.
    """
    for module in model.modules():
        if isinstance(module, DebertaV2Encoder) and module.relative_attention:
            with torch.no_grad():
                _fold(module, max_length)
    return model


def _fold(encoder: Any, max_length: int) -> None:
    # [2 * span, D]; the row in the middle is that of a token's own position.
    table: Tensor = encoder.get_rel_embedding()
    text = torch.zeros(1, max_length, 1)
    reached = int(encoder.get_rel_pos(text).abs().max())
    for layer in encoder.layer:
        core = layer.attention.self
        span = min(core.pos_ebd_size, reached + 1)
        rows = table[core.pos_ebd_size - span : core.pos_ebd_size + span][None]
        names = ("key_proj", "query_proj") if core.share_att_key else ("pos_key_proj", "pos_query_proj")
        key, query = (getattr(core, name, None) for name in names)
        if "c2p" in core.pos_att_type and key is not None:
            core.pos_key_proj = _Fixed(key(rows))
        if "p2c" in core.pos_att_type and query is not None:
            core.pos_query_proj = _Fixed(query(rows))
        core.pos_ebd_size, core.share_att_key = span, False


class _Fixed(nn.Module):
    """Return ``values[1, 2 * span, A * d]`` for any input."""

    def __init__(self, values: Tensor):
        super().__init__()
        self.values = nn.Buffer(values)

    def forward(self, _: Tensor) -> Tensor:
        return self.values
