"""An encoder rewritten for inference, same logits: its last layer works for the first token alone."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import GELUActivation

# Both families of heads read hidden_state[:, 0] and nothing else of the last layer.
FAMILIES = ("bert", "roberta", "distilbert")


class FirstTokenLayer(nn.Module):
    """A transformer layer that returns the first token's state only: ``[B, S, H]`` in, ``[B, 1, H]`` out.

    The first token attends to all of them, so keys and values are computed for every token; query, attention
    output and feed-forward part for one. That is exact, and for a short text it saves most of the layer.
    """

    def __init__(self, layer: Any, family: str):
        super().__init__()
        self.layer = layer
        self.family = family

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, *_: object, **__: object) -> Tensor:
        """``attention_mask`` is additive, ``[B, 1, S, S]``; its first row is the first token's."""
        first = hidden_states[:, :1]
        mask = attention_mask[:, :, :1]
        layer: Any = self.layer
        if self.family == "distilbert":
            core = layer.attention
            context = _attend(core, core.q_lin, core.k_lin, core.v_lin, first, hidden_states, mask)
            attended = layer.sa_layer_norm(core.out_lin(context) + first)
            return layer.output_layer_norm(layer.ffn(attended) + attended)
        core = layer.attention.self
        context = _attend(core, core.query, core.key, core.value, first, hidden_states, mask)
        attended = layer.attention.output(context, first)
        return layer.output(layer.intermediate(attended), attended)


class FusibleGelu(nn.Module):
    """Exact GELU in the order of operations that ONNX Runtime knows and runs as one kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """``x * (1 + erf(x / sqrt(2))) * 0.5``, elementwise."""
        return x * (torch.erf(x / math.sqrt(2.0)) + 1.0) * 0.5


def first_token_only(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of ``model`` with eager attention and, in the known families, a first-token last layer."""
    model = copy.deepcopy(model).eval()
    model.set_attn_implementation("eager")
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, GELUActivation):
                setattr(module, name, FusibleGelu())
    family = model.config.model_type
    if family in FAMILIES:
        base: Any = model.base_model
        encoder = base.transformer if family == "distilbert" else base.encoder
        encoder.layer[-1] = FirstTokenLayer(encoder.layer[-1], family)
    return model


def _attend(
    core: Any, query: Any, key: Any, value: Any, first: Tensor, every: Tensor, mask: Tensor
) -> Tensor:
    """Scaled dot-product attention of ``first[B, 1, H]`` over ``every[B, S, H]`` -> ``[B, 1, H]``."""

    def heads(x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], -1, core.attention_head_size).transpose(1, 2)

    # With one query, splitting into heads and joining them moves nothing in memory: no transpose.
    one = query(first).view(first.shape[0], -1, 1, core.attention_head_size)
    scores = torch.matmul(one, heads(key(every)).transpose(2, 3)) * core.scaling
    weights = torch.softmax(scores + mask, dim=-1)
    return torch.matmul(weights, heads(value(every))).reshape(first.shape[0], 1, -1)
