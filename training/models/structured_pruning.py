"""Encoders whose layers have fewer attention heads or feed-forward rows: cutting them, and loading them again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import prune_linear_layer

from ...errors import ModelError
from .families import Attention, FeedForward, family_names, family_of

KEPT_HEADS = "kept_attention_heads"
"""Field of config.json: heads in each layer, where they are fewer than ``num_attention_heads``.

``num_attention_heads`` then says no more than how large a head is (``hidden_size / num_attention_heads``), and
transformers alone refuses the weights, whose shapes are others. Fewer rows are the family's own field.
"""


def num_heads(config: PreTrainedConfig) -> int:
    """Attention heads in each layer."""
    return getattr(config, KEPT_HEADS, config.num_attention_heads)


def head_size(config: PreTrainedConfig) -> int:
    """Columns of a head."""
    return config.hidden_size // config.num_attention_heads


def num_rows(config: PreTrainedConfig) -> int:
    """Feed-forward rows in each layer; raises ``ModelError`` for an unknown family."""
    return getattr(config, family_of(config).intermediate_size)


def readers(model: PreTrainedModel) -> list[tuple[nn.Module, nn.Module]]:
    """Of each layer what reads its heads ``[B, S, A * d]``, and what reads its feed-forward rows ``[B, S, I]``.

    Raises:
        ModelError: The family is not known.
    """
    layers, attention, feed_forward = _parts(model)
    return [
        (layer.get_submodule(attention.output), layer.get_submodule(feed_forward.second)) for layer in layers
    ]


def keep_heads(model: PreTrainedModel, kept: Sequence[Sequence[int]]) -> None:
    """Leave each layer only some of its attention heads, in place.

    Query, key and value become ``[A' * d, D]``, the output ``[D, A' * d]``.

    Args:
        model: Of a known family.
        kept: For each layer its heads, counted from 0; every layer keeps as many.

    Raises:
        ModelError: The family is not known.
    """
    (layers, attention, _), size = _parts(model), head_size(model.config)
    for layer, heads in zip(layers, kept, strict=True):
        columns = (torch.tensor(heads)[:, None] * size + torch.arange(size)).flatten()
        core: Any = layer.get_submodule(attention.module)
        for name in attention.projections:
            _cut(core, name, columns, 0)
        _cut(layer, attention.output, columns, 1)
        for name in ("num_attention_heads", "n_heads"):
            if hasattr(core, name):
                setattr(core, name, len(heads))
        if hasattr(core, "all_head_size"):
            core.all_head_size = len(columns)
    setattr(model.config, KEPT_HEADS, len(kept[0]))


def keep_rows(model: PreTrainedModel, kept: Sequence[Sequence[int]]) -> None:
    """Leave each layer only some rows of its feed-forward part, in place.

    The first matrix becomes ``[I', D]``, the second ``[D, I']``.

    Args:
        model: Of a known family.
        kept: For each layer its rows, counted from 0; every layer keeps as many.

    Raises:
        ModelError: The family is not known.
    """
    layers, _, feed_forward = _parts(model)
    for layer, rows in zip(layers, kept, strict=True):
        _cut(layer, feed_forward.first, torch.tensor(rows), 0)
        _cut(layer, feed_forward.second, torch.tensor(rows), 1)
    setattr(model.config, family_of(model).intermediate_size, len(kept[0]))


def classifier_class(config: PreTrainedConfig) -> Any:
    """The class of sequence classifiers that has this configuration's shapes; it has ``from_pretrained``.

    Raises:
        ModelError: There is none, or heads are kept in a family that is not known.
    """
    stock = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if stock is None:
        raise ModelError(
            f"model family {config.model_type!r} has no sequence classifiers; give one of {family_names()}"
        )
    return _narrowed(stock) if hasattr(config, KEPT_HEADS) else stock


def classifier_classes(config: PreTrainedConfig) -> tuple[Any, ...]:
    """Return the family's own class of sequence classifiers, and that of those with fewer heads; empty for none."""
    stock = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    return () if stock is None else (stock, _narrowed(stock))


@cache
def _narrowed(stock: type[PreTrainedModel]) -> type[PreTrainedModel]:
    def init(self: Any, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        stock.__init__(self, config, *args, **kwargs)
        # Whatever heads: weights come after.
        keep_heads(self, [range(getattr(config, KEPT_HEADS))] * config.num_hidden_layers)

    # The name goes into config.json, and says whose forward pass it is.
    return type(stock.__name__, (stock,), {"__init__": init, "__module__": __name__})


def _parts(model: PreTrainedModel) -> tuple[nn.ModuleList, Attention, FeedForward]:
    family = family_of(model, "student.width", "width")
    assert family.attention is not None and family.feed_forward is not None, "the family supports width"
    return family.layers_of(model), family.attention, family.feed_forward


def _cut(parent: nn.Module, name: str, kept: torch.Tensor, dim: int) -> None:
    """Leave a Linear below ``parent`` only these of its rows (``dim`` 0) or columns (1)."""
    linear: Any = parent.get_submodule(name)
    parent.set_submodule(name, prune_linear_layer(linear, kept, dim))  # pyright: ignore[reportArgumentType]
