"""The question answering models of transformers, with the logits of both ends in one tensor as in other models."""

from __future__ import annotations

from functools import cache, wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LEAST_LOGIT = -1e4
"""Logit of padding: so low that its softmax is 0 next to a model's logits, at any temperature in use."""


@cache
def with_joined_logits(stock: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Derive a class for spans whose output has ``logits`` [B, L, 2], of their first and last tokens.

    If the model is given a padding mask, the logits of padding are ``LEAST_LOGIT``. Weights, configuration and name are
    those of ``stock``.

    Args:
        stock: A class of ``AutoModelForQuestionAnswering``.
    """
    import torch
    from transformers.modeling_outputs import TokenClassifierOutput

    @wraps(stock.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> TokenClassifierOutput:
        found = stock.forward(self, *args, **kwargs)
        logits = torch.stack([found.start_logits, found.end_logits], dim=-1)
        padding = _padding(kwargs.get("attention_mask"))
        if padding is not None:
            logits = logits.masked_fill(padding[:, :, None], LEAST_LOGIT)
        return TokenClassifierOutput(
            logits=logits, hidden_states=found.hidden_states, attentions=found.attentions
        )

    # The name is saved in config.json, where transformers finds its own class by it.
    return type(stock.__name__, (stock,), {"forward": forward, "__module__": __name__})


def _padding(mask: Any) -> Any:
    """Return which tokens are padding, bool[B, L], from a mask [B, L] or bool[B, 1, L, L]; None for any other."""
    import torch

    if mask is None or mask.ndim == 2:
        return None if mask is None else mask == 0
    return ~mask[:, 0, 0] if mask.dtype == torch.bool else None
