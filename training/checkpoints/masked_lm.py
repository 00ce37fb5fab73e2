"""Masked-language models: load one, access its head, and build one around a student's encoder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoModelForMaskedLM, PreTrainedModel

from ..models.families import Family, family_of
from .config_file import read_config
from .load import has_own_head, local_directory
from .model_weights import fill_model
from .weight_files import read_weights


def load_masked_lm(name: str | Path) -> tuple[PreTrainedModel, bool]:
    """Load a masked-language model in 32 bits and evaluation mode; seed torch first.

    Args:
        name: Directory or hub id; a checkpoint without a masked-language head, such as a classifier, gets a new one.

    Returns:
        The model, and whether the checkpoint has a trained head.

    Raises:
        ModelError: It cannot be loaded, its family's head is unknown, or its encoder's weights are incomplete or do
            not match its configuration.
    """
    directory = local_directory(name)
    config, weights = read_config(directory), read_weights(directory)
    check_head(config)
    model_class: Any = MODEL_FOR_MASKED_LM_MAPPING[type(config)]
    model, new = fill_model(model_class, config, weights, name, head_fits=has_own_head(model_class, config))
    return model, not new


def check_head(config: Any) -> Family:
    """Return the configuration's family; raise ``ModelError`` if its masked-language head is unknown."""
    return family_of(config, "student.pretraining", "masked_lm")


def language_head(model: Any) -> Callable[[Tensor], Tensor]:
    """Return the function from last hidden states[N, D] to logits[N, V]; raise ``ModelError`` for an unknown head."""
    parts = [model.get_submodule(name) for name in check_head(model.config).masked_lm_head]

    def head(states: Tensor) -> Tensor:
        for part in parts:
            states = part(states)
        return states

    return head


def masked_lm_around(encoder: PreTrainedModel, like: PreTrainedModel | None) -> PreTrainedModel:
    """Build a masked-language model around a copy of a model's encoder; seed torch first.

    Args:
        encoder: A model of a known family, with any head or none.
        like: Its masked-language head is copied where family, width and vocabulary size match; else the head is new.
            Where decoder and embeddings are tied, the decoder is the encoder's own embedding table.
    """
    check_head(encoder.config)
    model: Any = AutoModelForMaskedLM.from_config(encoder.config, dtype=torch.float32)
    # The encoder itself is copied: a narrowed one has shapes that do not follow from its configuration.
    setattr(model, model.base_model_prefix, copy.deepcopy(encoder.base_model).float())
    model.tie_weights()
    if like is not None and _head_shape(like) == _head_shape(model):
        heads = dict(head_parameters(like))
        with torch.no_grad():
            for name, parameter in head_parameters(model):
                parameter.copy_(heads[name])
    return model


def copy_encoder(source: PreTrainedModel, target: PreTrainedModel) -> None:
    """Copy the weights of one model's encoder into another of the same shapes.

    Heads are not copied, nor is a pooler that only one of the two has.
    """
    weights, own = source.base_model.state_dict(), target.base_model.state_dict()
    shared = {name: weights[name] for name in own if name in weights}
    different = [name for name in {*own, *weights} - set(shared) if not name.startswith("pooler.")]
    assert not different, f"the encoders have different parameters: {different}"
    target.base_model.load_state_dict({**own, **shared})


def head_parameters(model: PreTrainedModel) -> list[tuple[str, nn.Parameter]]:
    """Return the masked-language head's parameters by name, without a tied embedding table."""
    prefix = f"{model.base_model_prefix}."
    return [(name, each) for name, each in model.named_parameters() if not name.startswith(prefix)]


def _head_shape(model: PreTrainedModel) -> tuple[Any, ...]:
    config: Any = model.config
    rows = getattr(config, "embedding_size", config.hidden_size)
    return config.model_type, config.hidden_size, rows, config.vocab_size
