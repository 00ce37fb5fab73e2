"""A last layer that is worked out for the first token alone, in training and in evaluation."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

# Classes whose head reads the first token's last state and nothing else: their layers, and the part of a layer
# after whose input each token goes its own way.
_PARTS = {
    "BertForSequenceClassification": ("encoder.layer", "attention.output"),
    "RobertaForSequenceClassification": ("encoder.layer", "attention.output"),
    "DistilBertForSequenceClassification": ("transformer.layer", "sa_layer_norm"),
}


def first_token_in_last_layer(model: PreTrainedModel) -> AbstractContextManager[Any]:
    """Have the model's last layer go on with the first token alone once all tokens were attended to.

    Logits and gradients are the same (dropout draws other numbers). Of a layer of width H on texts of L tokens it
    leaves ``3 + 9 / L`` of the ``12 H^2`` multiplications a token; the feed-forward part are 8 of those 12. The
    last of the model's ``hidden_states`` is then ``[B, 1, H]``, so this is not for who compares those.

    Args:
        model: any classifier; one of an unknown class, or whose feed-forward part is chunked, is left alone.

    Returns:
        Leaving it as a context ends the saving; who never leaves it keeps the saving.
    """
    parts = _PARTS.get(type(model).__name__)
    if parts is None or getattr(model.config, "chunk_size_feed_forward", 0):
        return nullcontext()
    layers, part = parts
    last: Any = model.base_model.get_submodule(layers)
    return last[-1].get_submodule(part).register_forward_pre_hook(_first_token)


def _first_token(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each[:, :1] for each in inputs)
