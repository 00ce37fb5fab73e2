"""A last layer that is computed for the first token alone: in training, in evaluation and in the exported graph.

The first token attends to all of them, so keys and values are computed for every token; query, attention output and
feed-forward part for one. Logits and gradients are the same (dropout draws other numbers). A layer of width H, with a
feed-forward part of 4 H, on texts of L tokens takes ``2 + 10 / L`` instead of ``12 H^2`` multiplications a token.
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

from .families import Family, find_family
from .structured_pruning import classifier_classes

Projections = tuple[nn.Module, nn.Module, nn.Module]
Attend = Callable[[Any, Projections, Tensor, Tensor, Tensor | None], Tensor]


def reads_first_token(model: PreTrainedModel) -> bool:
    """Return whether a model's head reads the first token's last state and nothing else of the last layer.

    That is known of a family's own sequence classifiers; a class derived from one may read more, and another task's
    head does.
    """
    family = find_family(model)
    if family is None or not family.supports("first_token"):
        return False
    return type(model) in classifier_classes(model.config)


def first_token_in_last_layer(model: PreTrainedModel) -> AbstractContextManager[Any]:
    """Compute the last layer for the first token alone where the head reads that token alone.

    The last of the model's ``hidden_states`` is then ``[B, 1, H]``: not for code that reads those.

    Args:
        model: any classifier; one whose head may read more, chunked or with another attention is left alone.

    Returns:
        Leaving it as a context ends the saving; who never enters it keeps the saving.
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


def first_token_forward(family: Family, attend: Attend) -> Callable[..., Tensor]:
    """Return the ``forward`` of a layer for the first token alone: ``[B, S, H]`` in, ``[B, 1, H]`` out.

    Args:
        family: One that supports ``first_token``.
        attend: ``attend_fused`` or ``attend_in_products``.

    Returns:
        ``forward(layer, hidden_states, attention_mask)``.
    """
    attention, after_attention = family.attention, family.after_attention
    assert attention is not None and after_attention is not None, "the family supports first_token"

    def forward(
        layer: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, *_: object, **__: object
    ) -> Tensor:
        first, core = hidden_states[:, :1], layer.get_submodule(attention.module)
        query, key, value = (core.get_submodule(name) for name in attention.projections)
        context = attend(core, (query, key, value), first, hidden_states, attention_mask)
        return after_attention(layer, context, first)

    return forward


def attend_fused(
    core: Any, projections: Projections, first: Tensor, every: Tensor, mask: Tensor | None
) -> Tensor:
    """Attention of ``first[B, 1, H]`` over ``every[B, S, H]`` -> ``[B, 1, A * d]``, by PyTorch's fused kernel.

    ``mask`` is ``[B, 1, S or 1, S]``, boolean or additive; its first row is the first token's.
    """

    def heads(projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (-1, core.attention_head_size)).transpose(1, 2)

    query, key, value = projections
    # ``first`` itself would do, but then the gradients of ``every`` are summed in another order, to other last bits.
    first = every[:, :1]
    context = functional.scaled_dot_product_attention(
        heads(query(first)),
        heads(key(every)),
        heads(value(every)),
        attn_mask=None if mask is None else mask[:, :, :1],
        dropout_p=core.dropout.p if core.training else 0.0,
        scale=core.scaling,
    )
    return context.transpose(1, 2).flatten(2)


def attend_in_products(
    core: Any, projections: Projections, first: Tensor, every: Tensor, mask: Tensor | None
) -> Tensor:
    """As ``attend_fused``, in the fewest plain products; the mask is additive, and nothing is dropped out.

    An exported graph is made of products anyway, and those of the fused kernel transpose and scale more.
    """

    def heads(projected: Tensor) -> Tensor:
        return projected.view(projected.shape[0], projected.shape[1], -1, core.attention_head_size).transpose(
            1, 2
        )

    assert mask is not None, "an exported classifier is always given its mask"
    mask = mask[:, :, :1]
    query, key, value = projections
    # With one query, splitting into heads and joining them moves nothing in memory: no transpose.
    one = query(first).view(first.shape[0], -1, 1, core.attention_head_size)
    scores = torch.matmul(one, heads(key(every)).transpose(2, 3)) * core.scaling
    weights = torch.softmax(scores + mask, dim=-1)
    return torch.matmul(weights, heads(value(every))).reshape(first.shape[0], 1, -1)
