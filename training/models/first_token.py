"""Compute the last layer for the first token only: in training, in evaluation and in the exported graph.

The first token attends to all tokens, so keys and values are computed for every token, but query, attention output
and feed-forward part for one. Logits and gradients are the same (dropout draws other numbers). A layer of width H with
a feed-forward part of 4 H takes ``(2 + 10 / L) H^2`` instead of ``12 H^2`` multiplications per token of a text of L.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from ..tasks import TASKS
from .families import Family, find_family
from .structured_pruning import classifier_classes

Projections = tuple[nn.Module, nn.Module, nn.Module]
Attend = Callable[[Any, Projections, Tensor, Tensor, Tensor | None], Tensor]


def reads_first_token(model: PreTrainedModel) -> bool:
    """Return whether a model's head reads only the first token's state of the last layer.

    This is known only for a family's classes of tasks with outputs for a whole text: a derived class may read more, and
    the head of a task of tokens does.
    """
    family = find_family(model)
    if family is None or not family.supports("first_token", model.config):
        return False
    kinds = {each: classifier_classes(model.config, each) for each in TASKS}
    return any(type(model) in own for task, own in kinds.items() if not task.of_tokens) and not any(
        type(model) in own for task, own in kinds.items() if task.of_tokens
    )


def first_token_in_last_layer(model: PreTrainedModel) -> AbstractContextManager[Any]:
    """Compute the last layer for the first token only, if the head reads no other.

    The last of the model's ``hidden_states`` is then ``[B, 1, H]``, so do not use this where those are read.

    Args:
        model: Any classifier; it is not changed if its head may read more, its feed-forward parts are chunked, or its
            attention is neither ``eager`` nor ``sdpa``.

    Returns:
        A context manager that restores the model on exit; if it is never entered, the change is permanent.
    """
    family, chunked = find_family(model), getattr(model.config, "chunk_size_feed_forward", 0)
    if family is None or not reads_first_token(model):
        return nullcontext()
    if chunked or model.config._attn_implementation not in ("eager", "sdpa"):
        return nullcontext()
    layer: Any = family.layers_of(model)[-1]
    if "forward" in vars(layer):
        return nullcontext()
    layer.forward = MethodType(first_token_forward(family, attend_fused), layer)
    ending = ExitStack()
    ending.callback(vars(layer).pop, "forward")
    return ending


def first_token_forward(family: Family, attend: Attend) -> Callable[..., Tensor | tuple[Tensor]]:
    """Return the ``forward`` of a layer for the first token only: ``[B, S, H]`` in, ``[B, 1, H]`` out.

    Args:
        family: A family that supports ``first_token``.
        attend: ``attend_fused`` or ``attend_in_products``.

    Returns:
        ``forward(layer, hidden_states, attention_mask, position_bias)``.
    """
    attention, after_attention = family.attention, family.after_attention
    assert attention is not None and after_attention is not None, "the family supports first_token"

    def forward(
        layer: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        *_: object,
        **__: object,
    ) -> Tensor | tuple[Tensor]:
        first, core = hidden_states[:, :1], layer.get_submodule(attention.module)
        query, key, value = (core.get_submodule(name) for name in attention.projections)
        mask = attention_mask
        if family.has_position_bias and position_bias is not None:
            mask = position_bias if mask is None else mask + position_bias
        states = after_attention(layer, attend(core, (query, key, value), first, hidden_states, mask), first)
        return (states,) if family.has_position_bias else states

    return forward


def attend_fused(
    core: Any, projections: Projections, first: Tensor, every: Tensor, mask: Tensor | None
) -> Tensor:
    """Attend from ``first[B, 1, H]`` to ``every[B, S, H]``, giving ``[B, 1, A * d]``, by PyTorch's fused kernel.

    ``mask`` is ``[B, 1 or A, S or 1, S]``, boolean or additive; its first row is the first token's.
    """

    def heads(projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (-1, core.attention_head_size)).transpose(1, 2)

    query, key, value = projections
    # ``first`` would do, but would sum the gradients of ``every`` in another order, changing their last bits.
    first = every[:, :1]
    context = functional.scaled_dot_product_attention(
        heads(query(first)),
        heads(key(every)),
        heads(value(every)),
        attn_mask=None if mask is None else mask[:, :, :1],
        dropout_p=core.dropout.p if core.training else 0.0,
        scale=_scaling(core),
    )
    return context.transpose(1, 2).flatten(2)


def attend_in_products(
    core: Any, projections: Projections, first: Tensor, every: Tensor, mask: Tensor | None
) -> Tensor:
    """Attend as ``attend_fused`` does, with the fewest plain products, an additive mask and no dropout.

    An exported graph consists of products anyway, and the fused kernel's export transposes and scales more.
    """

    def heads(projected: Tensor) -> Tensor:
        return projected.view(projected.shape[0], projected.shape[1], -1, core.attention_head_size).transpose(
            1, 2
        )

    assert mask is not None, "an exported classifier is always given its mask"
    mask = mask[:, :, :1]
    query, key, value = projections
    # With one query, splitting into heads and joining them needs no transpose.
    one = query(first).view(first.shape[0], -1, 1, core.attention_head_size)
    scores = torch.matmul(one, heads(key(every)).transpose(2, 3)) * _scaling(core)
    weights = torch.softmax(scores + mask, dim=-1)
    return torch.matmul(weights, heads(value(every))).reshape(first.shape[0], 1, -1)


def _scaling(core: Any) -> float:
    return getattr(core, "scaling", core.attention_head_size**-0.5)
