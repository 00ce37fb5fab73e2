"""Rewrite a classifier for export, with the same logits but fewer operations, which the runtime can fuse."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import GELUActivation

from ...training.models.families import Family, find_family
from ...training.models.first_token import attend_in_products, first_token_forward, reads_first_token


def inference_form(model: PreTrainedModel) -> PreTrainedModel:
    """Copy a model with eager attention and, where its head reads only the first token, a first-token last layer."""
    model = copy.deepcopy(model).eval()
    model.set_attn_implementation("eager")
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, GELUActivation):
                setattr(module, name, FusibleGelu())
    family = find_family(model)
    if family is not None and family.has_position_bias and family.attention is not None:
        for layer in family.layers_of(model):
            place: Any = layer.get_submodule(family.attention.module)
            layer.set_submodule(family.attention.module, BiasedAttention(family, place))
    if family is not None and reads_first_token(model):
        layers = family.layers_of(model)
        layers[-1] = FirstTokenLayer(layers[-1], first_token_forward(family, attend_in_products))
    return model


class FirstTokenLayer(nn.Module):
    """A transformer layer that returns the first token's state only: ``[B, S, H]`` in, ``[B, 1, H]`` out.

    It wraps the layer as a submodule, so that the names of the graph's weights still identify the layer.
    """

    def __init__(self, layer: Any, forward: Callable[..., Tensor | tuple[Tensor]]):
        super().__init__()
        self.layer = layer
        self._forward = forward

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor, *others: Any, **_: object
    ) -> Tensor | tuple[Tensor]:
        """Run the layer; ``attention_mask`` is additive, ``[B, 1, S, S]``, and its first row is the first token's."""
        return self._forward(self.layer, hidden_states, attention_mask, *others)


class BiasedAttention(nn.Module):
    """MPNet's attention in the order of operations that ONNX Runtime's fusions recognize."""

    def __init__(self, family: Family, attention: Any):
        super().__init__()
        assert family.attention is not None
        self._names = family.attention.projections
        for name, child in attention.named_children():
            setattr(self, name, child)
        self.attention_head_size: int = attention.attention_head_size

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor, position_bias: Tensor, *_: object, **__: object
    ) -> tuple[Tensor]:
        """Attend within ``hidden_states[B, S, H]``, with an additive mask [B, 1, S, S] and a bias [B, A, S, S]."""
        query, key, value = (
            self.get_submodule(name)(hidden_states)
            .unflatten(-1, (-1, self.attention_head_size))
            .transpose(1, 2)
            for name in self._names
        )
        scores = torch.matmul(query, key.transpose(2, 3)) * self.attention_head_size**-0.5
        weights = torch.softmax(scores + (attention_mask + position_bias), dim=-1)
        context = torch.matmul(weights, value).transpose(1, 2).flatten(2)
        output: Any = self.get_submodule("o")
        return (output(context),)


class FusibleGelu(nn.Module):
    """Exact GELU in the order of operations that ONNX Runtime recognizes and runs as one kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``x * (1 + erf(x / sqrt(2))) * 0.5`` elementwise."""
        return x * (torch.erf(x / math.sqrt(2.0)) + 1.0) * 0.5
