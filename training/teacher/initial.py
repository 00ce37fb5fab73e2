"""A teacher before its training: a loaded checkpoint, an encoder with a new head, or a small BERT from scratch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from ...texts import texts_of
from ..checkpoints.heads import LabelMatch, head_of, load_with_labels, match_labels
from ..checkpoints.load import check_max_length, load_classifier, load_tokenizer, resolve_checkpoint
from ..checkpoints.word_pieces import check_known, check_table
from ..data.text_data import TextData
from ..tasks import SINGLE_LABEL, Task
from .config import FineTuneConfig, OneTeacher, ScratchConfig
from .from_scratch import new_model, train_tokenizer


@dataclass(frozen=True)
class InitialTeacher:
    """A teacher before its training; one without a recipe is not trained."""

    model: PreTrainedModel
    tokenizer: Any
    recipe: FineTuneConfig | ScratchConfig | None
    task: Task


def initial_teacher(
    config: OneTeacher, data: TextData, max_length: int, task: Task = SINGLE_LABEL
) -> InitialTeacher:
    """Return a teacher before its training; seed torch first.

    Raises:
        ModelError: The checkpoint cannot be loaded, or does not fit the labels, texts or ``max_length``.
    """
    names = data.class_names
    labels = task.labels_of_head(data.splits["train"][task.label_column][:])
    if config.checkpoint is not None:
        name = resolve_checkpoint(config.checkpoint)
        model, tokenizer = load_classifier(name, task)
        match = LabelMatch(config.labels, config.drop_labels, "teacher")
        match_labels(model, names, task=task, match=match)
        initial = InitialTeacher(model, tokenizer, None, task)
    elif config.fine_tune is not None:
        name = resolve_checkpoint(config.fine_tune.checkpoint, config.fine_tune.sha256)
        initial = InitialTeacher(
            load_with_labels(name, names, task, labels), load_tokenizer(name), config.fine_tune, task
        )
        check_table(initial.tokenizer, initial.model.config, name)
    else:
        recipe = config.scratch or ScratchConfig()
        tokenizer = train_tokenizer(texts_of(data.splits["train"]), recipe.vocab_size)
        model = new_model(recipe, tokenizer, names, max_length, task)
        if task.starts_head:
            task.start_head(head_of(model), labels)
        initial = InitialTeacher(model, tokenizer, recipe, task)
    check_max_length(initial.model, max_length, "teacher")
    if not isinstance(initial.recipe, ScratchConfig):
        parameter = "teacher.checkpoint" if initial.recipe is None else "teacher.fine_tune.checkpoint"
        check_known(initial.tokenizer, texts_of(data.splits["train"]), parameter)
    return initial
