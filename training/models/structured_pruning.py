"""Structured pruning of an encoder's attention heads and feed-forward rows, and loading of pruned encoders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import prune_linear_layer

from ...errors import ModelError
from ..tasks import SINGLE_LABEL, Task
from .families import family_names, family_of

KEPT_HEADS = "kept_attention_heads"
"""Field of config.json: heads in each layer, if fewer than ``num_attention_heads``.

``num_attention_heads`` then only determines the size of a head (``hidden_size / num_attention_heads``), and
transformers alone rejects the weights because of their shapes. Fewer rows are set in the family's own field.
"""


def num_heads(config: PreTrainedConfig) -> int:
    """Return the number of attention heads in each layer."""
    return getattr(config, KEPT_HEADS, config.num_attention_heads)


def head_size(config: PreTrainedConfig) -> int:
    """Return the number of columns of a head."""
    return getattr(config, "attention_head_size", config.hidden_size // config.num_attention_heads)


def num_rows(config: PreTrainedConfig) -> int:
    """Return the number of feed-forward rows in each layer; raises ``ModelError`` for an unknown family."""
    return getattr(config, family_of(config).intermediate_size)


def readers(model: PreTrainedModel) -> list[tuple[Any, Any]]:
    """Return each layer's modules that read its heads ``[B, S, A * d]`` and its feed-forward rows ``[B, S, I]``.

    Layers that share weights have one pair. A module is None where what it reads cannot be pruned.

    Raises:
        ModelError: The family is not known.
    """
    family = family_of(model, "student.width", "layers")
    attention = family.attention if family.supports("heads", model.config) else None
    feed_forward = family.feed_forward if family.supports("rows", model.config) else None
    return [
        (
            None if attention is None else layer.get_submodule(attention.output),
            None if feed_forward is None else layer.get_submodule(feed_forward.second),
        )
        for layer in family.layers_of(model)
    ]


def keep_heads(model: PreTrainedModel, kept: Sequence[Sequence[int]]) -> None:
    """Prune each layer's attention heads to those given, in place.

    Query, key and value become ``[A' * d, D]``, the output ``[D, A' * d]``.

    Args:
        model: Of a known family.
        kept: Heads to keep in each entry of the list of layers, counted from 0; the same number in each.

    Raises:
        ModelError: The family is not known, or its heads cannot be pruned.
    """
    family, size = family_of(model, "student.width.num_attention_heads", "heads"), head_size(model.config)
    attention = family.attention
    assert attention is not None, "the family supports heads"
    for layer, heads in zip(family.layers_of(model), kept, strict=True):
        columns = (torch.tensor(heads)[:, None] * size + torch.arange(size)).flatten()
        core: Any = layer.get_submodule(attention.module)
        output: Any = layer.get_submodule(attention.output)
        positions = [name for name in attention.position_projections if hasattr(core, name)]
        for name in (*attention.projections, *positions):
            _cut_blocks(core, name, columns, output.in_features)
        _cut(layer, attention.output, columns, 1)
        for name in ("num_attention_heads", "n_heads"):
            if hasattr(core, name):
                setattr(core, name, len(heads))
        if hasattr(core, "all_head_size"):
            core.all_head_size = len(columns)
    setattr(model.config, KEPT_HEADS, len(kept[0]))


def keep_rows(model: PreTrainedModel, kept: Sequence[Sequence[int]]) -> None:
    """Prune each layer's feed-forward rows to those given, in place.

    The first matrix becomes ``[I', D]``, the second ``[D, I']``.

    Args:
        model: Of a known family.
        kept: Rows to keep in each entry of the list of layers, counted from 0; the same number in each.

    Raises:
        ModelError: The family is not known, or its rows cannot be pruned.
    """
    family = family_of(model, "student.width.intermediate_size", "rows")
    feed_forward = family.feed_forward
    assert feed_forward is not None, "the family supports rows"
    for layer, rows in zip(family.layers_of(model), kept, strict=True):
        second: Any = layer.get_submodule(feed_forward.second)
        _cut_blocks(layer, feed_forward.first, torch.tensor(rows), second.in_features)
        _cut(layer, feed_forward.second, torch.tensor(rows), 1)
    setattr(model.config, family.intermediate_size, len(kept[0]))


def classifier_class(config: PreTrainedConfig, task: Task = SINGLE_LABEL) -> Any:
    """Return the task's model class, with ``from_pretrained``, that builds this configuration's shapes.

    Raises:
        ModelError: There is none, or heads were pruned in an unknown family.
    """
    stock = task.model_class(config)
    if stock is None:
        raise ModelError(
            f"model family {config.model_type!r} has no model for the task {task.name} ({task.auto_class}); use one "
            f"of {family_names()}"
        )
    return _narrowed(stock) if hasattr(config, KEPT_HEADS) else stock


def classifier_classes(config: PreTrainedConfig, task: Task) -> tuple[Any, ...]:
    """Return the family's class for a task and its variant with fewer heads, or an empty tuple."""
    stock = task.model_class(config)
    return () if stock is None else (stock, _narrowed(stock))


@cache
def _narrowed(stock: type[PreTrainedModel]) -> type[PreTrainedModel]:
    def init(self: Any, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        stock.__init__(self, config, *args, **kwargs)
        # Which heads does not matter: weights are loaded later.
        num_entries = len(family_of(config).layers_of(self))
        keep_heads(self, [range(getattr(config, KEPT_HEADS))] * num_entries)

    # The name is saved in config.json, where it identifies the forward pass.
    return type(stock.__name__, (stock,), {"__init__": init, "__module__": __name__})


def _cut_blocks(parent: nn.Module, name: str, kept: torch.Tensor, num_rows: int) -> None:
    """Keep only these rows of each block of ``num_rows`` rows of a Linear below ``parent``."""
    linear: Any = parent.get_submodule(name)
    blocks = range(0, linear.out_features, num_rows)
    _cut(parent, name, torch.cat([kept + first for first in blocks]), 0)


def _cut(parent: nn.Module, name: str, kept: torch.Tensor, dim: int) -> None:
    """Keep only these rows (``dim`` 0) or columns (1) of a Linear below ``parent``."""
    linear: Any = parent.get_submodule(name)
    parent.set_submodule(name, prune_linear_layer(linear, kept, dim))  # pyright: ignore[reportArgumentType]
