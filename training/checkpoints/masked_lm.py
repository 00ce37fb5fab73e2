"""Masked-language models: loading one, its head, and one made around a student's encoder."""

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
    """A masked-language model in 32 bits and evaluation mode; seed torch before.

    Args:
        name: Directory or hub id; a checkpoint without masked-language head, such as a classifier, gets a new one.

    Returns:
        The model, and whether the checkpoint has a trained head.

    Raises:
        ModelError: It cannot be loaded, its family's head is not known, or its encoder lacks weights or has
            others than its configuration says.
    """
    directory = local_directory(name)
    config, weights = read_config(directory), read_weights(directory)
    check_head(config)
    kind: Any = MODEL_FOR_MASKED_LM_MAPPING[type(config)]
    model, new = fill_model(kind, config, weights, name, head_fits=has_own_head(kind, config))
    return model, not new


def check_head(config: Any) -> Family:
    """Return the configuration's family; raise ``ModelError`` unless its masked-language head is known."""
    return family_of(config, "student.pretraining", "masked_lm")


def language_head(model: Any) -> Callable[[Tensor], Tensor]:
    """From last hidden states[N, D] to logits[N, V]; raises ``ModelError`` where the family's head is not known."""
    parts = [model.get_submodule(name) for name in check_head(model.config).masked_lm_head]

    def head(states: Tensor) -> Tensor:
        for part in parts:
            states = part(states)
        return states

    return head


def masked_lm_around(encoder: PreTrainedModel, like: PreTrainedModel | None) -> PreTrainedModel:
    """A masked-language model with a copy of a model's encoder; seed torch before.

    Args:
        encoder: A model of a known family, with any head or none.
        like: Its masked-language head is copied where family and width are the same; else the head is new. The
            decoder is the encoder's own embedding table wherever the two are tied.
    """
    check_head(encoder.config)
    model: Any = AutoModelForMaskedLM.from_config(encoder.config, dtype=torch.float32)
    # The encoder as it is: one that was narrowed has shapes that its configuration alone does not give.
    setattr(model, model.base_model_prefix, copy.deepcopy(encoder.base_model).float())
    model.tie_weights()
    if like is not None and _form(like) == _form(model):
        heads = dict(head_parameters(like))
        with torch.no_grad():
            for name, parameter in head_parameters(model):
                parameter.copy_(heads[name])
    return model


def copy_encoder(source: PreTrainedModel, target: PreTrainedModel) -> None:
    """Write the weights of one model's encoder into another's of the same form.

    A pooler that only one of them has is left out of it, and so are the heads.
    """
    weights, own = source.base_model.state_dict(), target.base_model.state_dict()
    shared = {name: weights[name] for name in own if name in weights}
    different = [name for name in {*own, *weights} - set(shared) if not name.startswith("pooler.")]
    assert not different, f"encoders of the same form: {different}"
    target.base_model.load_state_dict({**own, **shared})


def head_parameters(model: PreTrainedModel) -> list[tuple[str, nn.Parameter]]:
    """The masked-language head's parameters by name, without an embedding table that it shares."""
    prefix = f"{model.base_model_prefix}."
    return [(name, each) for name, each in model.named_parameters() if not name.startswith(prefix)]


def _form(model: PreTrainedModel) -> tuple[Any, ...]:
    config: Any = model.config
    return config.model_type, config.hidden_size, config.vocab_size
