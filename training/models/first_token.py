"""A last layer that is worked out for the first token alone, in training and in evaluation."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel


def first_token_in_last_layer(model: PreTrainedModel) -> AbstractContextManager[Any]:
    """Have the last layer of a classifier whose head reads the first token alone work for that token alone.

    The first token attends to all of them, so keys and values are computed for every token; query, attention and
    feed-forward part for one. Logits and gradients are the same (dropout draws other numbers). A layer of width H,
    with a feed-forward part of 4 H, on texts of L tokens takes ``2 + 10 / L`` instead of ``12 H^2`` multiplications
    a token. The last of the model's ``hidden_states`` is then ``[B, 1, H]``: not for who reads those.

    Args:
        model: any classifier; one of an unknown class, chunked or with another attention is left alone.

    Returns:
        Leaving it as a context ends the saving; who never enters it keeps the saving.
    """
    layers, forward = _KNOWN.get(type(model).__name__, ("", None))
    chunked = getattr(model.config, "chunk_size_feed_forward", 0)
    if forward is None or chunked or model.config._attn_implementation not in ("eager", "sdpa"):
        return nullcontext()
    base: Any = model.base_model
    layer = base.get_submodule(layers)[-1]
    if "forward" in vars(layer):
        return nullcontext()
    layer.forward = MethodType(forward, layer)
    ending = ExitStack()
    ending.callback(vars(layer).pop, "forward")
    return ending


def _bert(
    layer: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, *_: object, **__: object
) -> Tensor:
    first, core = hidden_states[:, :1], layer.attention.self
    context = _attend(core, (core.query, core.key, core.value), hidden_states, attention_mask)
    attended = layer.attention.output(context, first)
    return layer.output(layer.intermediate(attended), attended)


def _distilbert(
    layer: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, *_: object, **__: object
) -> Tensor:
    first, core = hidden_states[:, :1], layer.attention
    context = _attend(core, (core.q_lin, core.k_lin, core.v_lin), hidden_states, attention_mask)
    attended = layer.sa_layer_norm(core.out_lin(context) + first)
    return layer.output_layer_norm(layer.ffn(attended) + attended)


def _attend(
    core: Any, parts: tuple[nn.Module, nn.Module, nn.Module], every: Tensor, mask: Tensor | None
) -> Tensor:
    """Attention of the first token over ``every[B, L, H]`` -> ``[B, 1, H]``; ``mask`` is ``[B, 1, L or 1, L]``."""

    def heads(projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (-1, core.attention_head_size)).transpose(1, 2)

    query, key, value = parts
    context = functional.scaled_dot_product_attention(
        heads(query(every[:, :1])),
        heads(key(every)),
        heads(value(every)),
        attn_mask=None if mask is None else mask[:, :, :1],
        dropout_p=core.dropout.p if core.training else 0.0,
        scale=core.scaling,
    )
    return context.transpose(1, 2).flatten(2)


# Classes whose head reads the first token's last state and nothing else: where their layers are, and one of them.
_KNOWN = {
    "BertForSequenceClassification": ("encoder.layer", _bert),
    "RobertaForSequenceClassification": ("encoder.layer", _bert),
    "DistilBertForSequenceClassification": ("transformer.layer", _distilbert),
}
