"""Build a model from a configuration and weights, rejecting weights that do not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ...errors import ModelError
from .loading import loading
from .weight_files import is_finite

_NUM_SHOWN = 2


def fill_model(
    model_class: Any,
    config: PreTrainedConfig,
    weights: Mapping[str, Tensor],
    name: str | Path,
    *,
    complete: bool = False,
    head_fits: bool = False,
) -> tuple[PreTrainedModel, list[str]]:
    """Return a model in 32 bits and evaluation mode with these weights, and the names of newly initialized ones.

    transformers matches the names, including older and unprefixed ones. Weights on the meta device give a model on
    that device almost instantly, so that a checkpoint can be checked by its headers alone. Seed torch first.

    Args:
        model_class: A model class of transformers, with any head.
        config: The checkpoint's configuration; it is copied.
        weights: Tensors by name.
        name: The checkpoint's name, for messages.
        complete: Also reject a checkpoint without a head.
        head_fits: Reject a head of another shape; else it is replaced by a new one.

    Raises:
        ModelError: The model cannot be built, its weights are not finite, or encoder weights are missing or have
            another shape.
    """
    check_num_layers(config, weights, name)
    on_meta = any(each.is_meta for each in weights.values())
    with loading(f"{name}: config.json"):
        loaded: Any = model_class.from_pretrained(
            None,  # do not look for an adapter, another index or code beside the weights
            config=config,
            state_dict=dict(weights),
            attn_implementation=None,  # sdpa where the family has it, else eager, whatever config.json names
            dtype="float32",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **({"device_map": "meta"} if on_meta else {}),
        )
    model, info = loaded
    _refuse_mismatched(model, info, weights, name, complete=complete, head_fits=head_fits or complete)
    if not on_meta:
        refuse_not_finite({key: is_finite(value) for key, value in model.state_dict().items()}, name)
    return model.eval(), sorted([*info["missing_keys"], *(each[0] for each in info["mismatched_keys"])])


def check_num_layers(config: PreTrainedConfig, weights: Mapping[str, Any], name: str | Path) -> None:
    """Reject more layers than there are tensors, before a model of a million layers is built."""
    layers = getattr(config, "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > len(weights):
        raise ModelError(
            f"{name}: config.json has num_hidden_layers {layers}, but there are only {len(weights)} weight tensors "
            "in all; correct it, or save the whole model again with save_pretrained"
        )


def _refuse_mismatched(
    model: PreTrainedModel,
    info: dict[str, Any],
    weights: Mapping[str, Tensor],
    name: str | Path,
    *,
    complete: bool,
    head_fits: bool,
) -> None:
    """Reject weights that are missing, have another shape or belong to no layer; see :func:`fill_model`."""
    prefix = f"{model.base_model_prefix}."
    missing = sorted(info["missing_keys"])
    encoder = [key for key in missing if key.startswith(prefix)]
    # A complete classifier needs its encoder's pooler; a masked-language model is saved without one.
    required = [key for key in encoder if complete or not key.startswith(f"{prefix}pooler.")]
    faults = [f"{key} is missing" for key in required]
    faults += [
        f"{key} is {_shape(found)} in the file but {_shape(built)} in config.json"
        for key, found, built in sorted(info["mismatched_keys"])
        if head_fits or key.startswith(prefix)
    ]
    faults += [f"{key} belongs to no layer of config.json" for key in _of_other_layers(model, info)]
    if faults:
        raise ModelError(
            f"{name}: its weights do not match its config.json: {_first_few(faults, '; ')} (of {len(weights)} "
            "tensors); restore the config.json that belongs to them, or save the model again with save_pretrained"
        )
    if complete and missing:
        raise ModelError(
            f"{name}: not a trained classifier: it has no weights for {_first_few(missing, ', ')}; fine-tune it first "
            "(teacher.fine_tune.checkpoint)"
        )


def _first_few(items: list[str], separator: str) -> str:
    """Join the first items, and count the others."""
    more = f" and {len(items) - _NUM_SHOWN} more" if len(items) > _NUM_SHOWN else ""
    return separator.join(items[:_NUM_SHOWN]) + more


def _of_other_layers(model: PreTrainedModel, info: dict[str, Any]) -> list[str]:
    """Return the names of weights that belong to layers beyond the model's last one."""
    places = {place for place, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)}
    found = []
    for key in sorted(info["unexpected_keys"]):
        for full in (key, f"{model.base_model_prefix}.{key}"):
            layer = re.match(r"(.+?)\.\d+\.", full)
            if layer is not None and layer[1] in places:
                found.append(key)
    return found


def refuse_not_finite(finite: Mapping[str, bool], name: str | Path) -> None:
    """Reject a checkpoint that has a tensor with NaN or infinite values.

    Args:
        finite: Whether each tensor is finite, by name.
        name: The checkpoint's name, for the message.

    Raises:
        ModelError: A tensor is not finite.
    """
    for key, value in finite.items():
        if not value:
            raise ModelError(
                f"{name}: its weights are not finite: {key} has NaN or infinite values; retrain it with a lower "
                f"learning rate, or use an earlier checkpoint"
            )


def _shape(sizes: Any) -> str:
    return "x".join(map(str, sizes)) or "a scalar"
