"""Inspect a checkpoint before any work begins: configuration, weights, tokenizer, and a forward pass."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ...errors import ModelError, first_line
from ..models.families import first_position, with_layers
from ..models.structured_pruning import classifier_class
from ..tasks import SINGLE_LABEL, TASKS, Task
from ..tasks.config import task_of_model
from .config_file import read_config
from .load import check_max_length, has_own_head, load_tokenizer, local_directory
from .loading import loading
from .model_weights import fill_model, refuse_not_finite
from .weight_files import finite_weights, unwrapped, weight_shapes, wrapped_name
from .word_pieces import check_padding, check_table

logger = logging.getLogger(__name__)


def inspect_checkpoint(
    name: str | Path,
    *,
    complete: bool = False,
    task: Task = SINGLE_LABEL,
    max_length: int | None = None,
    tokenizer_of: Callable[[str], Any] = load_tokenizer,
) -> PreTrainedConfig:
    """Reject a checkpoint that training or export would reject later, without building the full model.

    Shapes are read from the file headers, and the weights are read once to check that they are finite. The forward
    pass runs in a model of one layer with untrained weights and the checkpoint's own position table.

    Args:
        name: Directory or hub id.
        complete: Reject a checkpoint that lacks a head, or whose head is for another task.
        task: The task that its head is for.
        max_length: Number of tokens of the forward pass; None skips it.
        tokenizer_of: Returns the tokenizer of a checkpoint.

    Returns:
        Its configuration.

    Raises:
        ModelError: Its weights do not fit its configuration or are not finite, its tokenizer does not fit its
            embedding table or padding id, it cannot take ``max_length`` tokens, its head is for another task, or one
            of its files is missing or damaged.
    """
    directory = local_directory(name)
    config = read_config(directory)
    model_class = classifier_class(config, task)
    if complete:
        _check_problem_type(config, task, name)
        _check_head(config, model_class, task, name)
    if (stored := wrapped_name(directory)) is not None:
        logger.warning(
            "%s: its weights were saved from a wrapped model (%s); read as %s",
            name,
            stored,
            unwrapped(stored),
        )
    shapes = weight_shapes(directory)
    weights = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    fill_model(
        model_class, config, weights, name, complete=complete, head_fits=has_own_head(model_class, config)
    )
    tokenizer = tokenizer_of(str(name))
    check_table(tokenizer, config, name)
    shallow = _shallow_model(config, task, name)
    check_padding(tokenizer, config, name, is_counted=first_position(shallow) > 0)
    if max_length is not None:
        check_forward(shallow, name, max_length)
    refuse_not_finite(finite_weights(directory), name)
    return config


def check_forward(model: PreTrainedModel, name: str | Path, max_length: int) -> None:
    """Reject a model that cannot take a text of ``max_length`` tokens.

    Raises:
        ModelError: It has too few positions, or its forward pass fails; the message has the reason.
    """
    check_max_length(model, max_length, f"model of {name}")
    config: Any = model.config
    # Any token but padding, from which RoBERTa and similar models count their positions.
    token = next(each for each in range(config.vocab_size) if each != config.pad_token_id)
    ids = torch.full((1, max_length), token)
    try:
        with torch.inference_mode(), loading(name):
            model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
    except ModelError as error:
        reason = first_line(error.__cause__ or error)
        raise ModelError(
            f"{name}: a forward pass of {max_length} tokens (training.max_length) fails: {reason}; lower "
            f"training.max_length, or correct max_position_embeddings in its config.json"
        ) from error


def shallow_model(name: str | Path, task: Task = SINGLE_LABEL) -> PreTrainedModel:
    """Build a checkpoint's model with its own positions, but with one layer, few token ids and untrained weights.

    Raises:
        ModelError: Its configuration cannot be read.
    """
    return _shallow_model(read_config(local_directory(name)), task, name)


def _shallow_model(config: PreTrainedConfig, task: Task, name: str | Path) -> PreTrainedModel:
    """Build an untrained model of a configuration with one layer and few token ids."""
    small: Any = with_layers(config, [0])
    small.vocab_size = (small.pad_token_id or 0) + 2
    with loading(name), torch.random.fork_rng(devices=[]):
        return classifier_class(small, task)(small)


def _check_head(config: PreTrainedConfig, model_class: Any, task: Task, name: str | Path) -> None:
    """Reject a model with the head of another task, whose weights may have the same names and shapes."""
    named, expected = config.architectures or [], model_class.__name__
    heads = [head.__name__ for each in TASKS if (head := each.model_class(config)) is not None]
    other = next((head for head in heads if head in named and head != expected), None)
    if other is not None and expected not in named:
        raise ModelError(
            f"{name}: architectures: {other} in its config.json, but the task {task.name} needs {expected}; "
            f"{_other_task(config)}use a checkpoint trained for that task, or fine-tune this one "
            f"(teacher.fine_tune.checkpoint)"
        )


def _check_problem_type(config: PreTrainedConfig, task: Task, name: str | Path) -> None:
    given: Any = config.problem_type
    if given is not None and given != task.problem_type:
        raise ModelError(
            f"{name}: problem_type: {given} in its config.json, but the task {task.name} needs "
            f"{task.problem_type or 'none'}: its outputs mean something else; {_other_task(config)}use a checkpoint "
            f"trained for that task, or fine-tune this one (teacher.fine_tune.checkpoint)"
        )


def _other_task(config: PreTrainedConfig) -> str:
    """Return the beginning of a remedy: the task that a model is for, where its configuration shows it."""
    found = task_of_model(vars(config))
    return "" if found is None else f"set task: {found} for labels of that task, "
