"""Token types, by which a model distinguishes the two texts of a pair: which models read them, and their inputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..data.tokenized import TOKEN_TYPES


def reads_token_types(model: Any) -> bool:
    """Return whether a model's result depends on token types, as in BERT and ELECTRA, but not in RoBERTa.

    A table with a single row, like RoBERTa's, distinguishes nothing. If the configuration has no size of the table, it
    depends on whether ``forward`` accepts token types.

    Args:
        model: A model of transformers, or another module.
    """
    num_types = getattr(getattr(model, "config", None), "type_vocab_size", None)
    return TOKEN_TYPES in forward_names(model) and (num_types is None or num_types > 1)


def forward_names(model: Any) -> set[str]:
    """Return the names of the inputs that a model's ``forward`` declares."""
    # accelerate stores the forward that it wrapped for mixed precision.
    forward = getattr(model, "_original_forward", None) or model.forward
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(forward).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind not in kinds}


def without_unread_types(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's inputs without token types that it does not read."""
    if TOKEN_TYPES not in inputs or reads_token_types(model):
        return dict(inputs)
    return {name: value for name, value in inputs.items() if name != TOKEN_TYPES}
