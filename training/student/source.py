"""Load the checkpoint that a student is made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..checkpoints.heads import has_labels, load_with_labels
from ..checkpoints.load import load_tokenizer, resolve_checkpoint
from ..checkpoints.word_pieces import check_known, check_table

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .kinds.base import StudentInputs


def load_source(checkpoint: str, inputs: StudentInputs, key: str) -> tuple[PreTrainedModel, Any, bool]:
    """Load a checkpoint with the labels of the data; its head is new, unless it was trained for them.

    Args:
        checkpoint: Directory or hub id.
        inputs: Its labels, task and training texts are used.
        key: Full name of the parameter that names the checkpoint.

    Returns:
        The model, its tokenizer, and whether its head was trained for these labels.

    Raises:
        ModelError: It cannot be used with these texts.
    """
    name = resolve_checkpoint(checkpoint)
    labels = inputs.task.labels_of_head(inputs.labels)
    model = load_with_labels(name, inputs.label_names, inputs.task, labels)
    tokenizer = load_tokenizer(name)
    check_table(tokenizer, model.config, checkpoint)
    check_known(tokenizer, inputs.texts, key)
    return model, tokenizer, has_labels(name, inputs.label_names, inputs.task)
