"""Encoders whose layers have fewer attention heads or feed-forward rows: cutting them, and loading them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import prune_linear_layer

from ...errors import ModelError

KEPT_HEADS = "kept_attention_heads"
"""Field of config.json: heads in each layer, where they are fewer than ``num_attention_heads``.

``num_attention_heads`` then says no more than how large a head is (``hidden_size / num_attention_heads``), and
transformers alone refuses the weights, whose shapes are others. Fewer rows are the family's own field.
"""


@dataclass(frozen=True)
class _Family:
    """Where a family's layers are below the base model, and its parts below a layer."""

    layers: str
    attention: str
    projections: tuple[str, str, str]  # below the attention: query, key, value
    attention_output: str
    intermediate: str
    output: str
    rows: str  # field of the configuration


_BERT = _Family(
    layers="encoder.layer",
    attention="attention.self",
    projections=("query", "key", "value"),
    attention_output="attention.output.dense",
    intermediate="intermediate.dense",
    output="output.dense",
    rows="intermediate_size",
)
_FAMILIES = {
    "bert": _BERT,
    "roberta": _BERT,
    "distilbert": _Family(
        layers="transformer.layer",
        attention="attention",
        projections=("q_lin", "k_lin", "v_lin"),
        attention_output="attention.out_lin",
        intermediate="ffn.lin1",
        output="ffn.lin2",
        rows="hidden_dim",
    ),
}


def num_heads(config: PreTrainedConfig) -> int:
    """Attention heads in each layer."""
    return getattr(config, KEPT_HEADS, config.num_attention_heads)


def head_size(config: PreTrainedConfig) -> int:
    """Columns of a head."""
    return config.hidden_size // config.num_attention_heads


def num_rows(config: PreTrainedConfig) -> int:
    """Feed-forward rows in each layer; raises ``ModelError`` for an unknown family."""
    return getattr(config, _family(config).rows)


def readers(model: PreTrainedModel) -> list[tuple[nn.Linear, nn.Linear]]:
    """Of each layer what reads its heads ``[B, S, A * d]``, and what reads its feed-forward rows ``[B, S, I]``.

    Raises:
        ModelError: The family is not known.
    """
    family = _family(model.config)
    return [
        (layer.get_submodule(family.attention_output), layer.get_submodule(family.output))
        for layer in _layers(model)
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
    family, size = _family(model.config), head_size(model.config)
    for layer, heads in zip(_layers(model), kept, strict=True):
        columns = (torch.tensor(heads)[:, None] * size + torch.arange(size)).flatten()
        attention = layer.get_submodule(family.attention)
        for name in family.projections:
            _cut(attention, name, columns, 0)
        _cut(layer, family.attention_output, columns, 1)
        for name in ("num_attention_heads", "n_heads"):
            if hasattr(attention, name):
                setattr(attention, name, len(heads))
        if hasattr(attention, "all_head_size"):
            attention.all_head_size = len(columns)
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
    family = _family(model.config)
    for layer, rows in zip(_layers(model), kept, strict=True):
        _cut(layer, family.intermediate, torch.tensor(rows), 0)
        _cut(layer, family.output, torch.tensor(rows), 1)
    setattr(model.config, family.rows, len(kept[0]))


def classifier_class(config: PreTrainedConfig) -> Any:
    """The class of sequence classifiers that has this configuration's shapes; it has ``from_pretrained``.

    Raises:
        ModelError: There is none, or heads are kept in a family that is not known.
    """
    stock = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if stock is None:
        known = ", ".join(_FAMILIES)
        raise ModelError(
            f"model family {config.model_type!r} has no sequence classifiers; give one of {known}"
        )
    return _narrowed(stock) if hasattr(config, KEPT_HEADS) else stock


@cache
def _narrowed(stock: type[PreTrainedModel]) -> type[PreTrainedModel]:
    def init(self: Any, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        stock.__init__(self, config, *args, **kwargs)
        # Whatever heads: weights come after.
        keep_heads(self, [range(getattr(config, KEPT_HEADS))] * config.num_hidden_layers)

    # The name goes into config.json, and says whose forward pass it is.
    return type(stock.__name__, (stock,), {"__init__": init, "__module__": __name__})


def _family(config: PreTrainedConfig) -> _Family:
    if config.model_type not in _FAMILIES:
        raise ModelError(
            f"student.width: the model's family is {config.model_type!r}; heads and feed-forward rows can be taken "
            f"from {', '.join(_FAMILIES)}; leave it out"
        )
    return _FAMILIES[config.model_type]


def _layers(model: PreTrainedModel) -> Any:
    base: Any = model.base_model
    return base.get_submodule(_family(model.config).layers)


def _cut(parent: nn.Module, name: str, kept: torch.Tensor, dim: int) -> None:
    """Leave a Linear below ``parent`` only these of its rows (``dim`` 0) or columns (1)."""
    linear: Any = parent.get_submodule(name)
    parent.set_submodule(name, prune_linear_layer(linear, kept, dim))  # pyright: ignore[reportArgumentType]
