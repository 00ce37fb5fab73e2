"""Attention masks of batches whose padding is known on the host, so that no model has to ask its device for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from .families import find_family

PADDED = "padded"
"""Key of a batch: whether any of its texts is padded, a Boolean; not known for a batch without the key."""


def with_known_padding(
    model: PreTrainedModel, features: Mapping[str, Any], padded: bool | None
) -> dict[str, Any]:
    """Return the inputs of a model with an attention mask that it uses as it is.

    Given ``attention_mask[B, L]``, transformers calls ``.all()`` at every step to find out whether anything is padded,
    for which the host waits on a GPU. It then uses no mask if there is no padding, and otherwise the mask built here,
    so that the results are the same bit for bit.

    Args:
        model: A model without wrappers.
        features: Its inputs.
        padded: Whether any text of the batch is padded; None if that is not known.
    """
    given = dict(features)
    family = find_family(model) if padded is not None and hasattr(model, "config") else None
    if family is None or not family.takes_made_mask or "attention_mask" not in given:
        return given
    if model.config._attn_implementation != "sdpa":
        return given
    mask: Tensor = given.pop("attention_mask")
    if padded:
        given["attention_mask"] = mask.bool()[:, None, None, :].expand(-1, 1, mask.shape[1], -1)
    return given
