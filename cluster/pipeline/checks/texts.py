"""Check that the tokenizers, labels and word pieces of a job's models fit its texts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ....texts import texts_of
from ....training.tasks import get as get_task
from ...specification.config import JobConfig

if TYPE_CHECKING:
    from ....training.checkpoints.once import Checkpoints
    from ....training.data.text_data import TextData
    from ....training.student.config import StudentConfig

logger = logging.getLogger(__name__)

_MANY_UNKNOWN = 0.1  # share of characters: below 0.01 for ordinary texts, 0.05 with an emoji in each


def check_texts(config: JobConfig, data: TextData, checkpoints: Checkpoints | None = None) -> None:
    """Reject a checkpoint whose labels do not match the data, or whose tokenizer does not cover its script.

    Raises:
        ModelError: A checkpoint does not fit; the message has its key, and the labels or the share of unknown text.
    """
    from ....training.checkpoints.heads import LabelMatch
    from ....training.checkpoints.load import label_names, load_config
    from ....training.checkpoints.once import Checkpoints
    from ....training.checkpoints.word_pieces import check_known
    from ....training.teacher.file_teacher import joined_logits

    checkpoints = checkpoints or Checkpoints()
    if config.teacher.checkpoint is not None:
        own = label_names(load_config(checkpoints.directory(config.teacher.checkpoint)))
        match = LabelMatch(config.teacher.labels, config.teacher.drop_labels, "teacher")
        match.positions(own, data.class_names, "teacher.checkpoint", get_task(config.task))
    if config.teacher.logits is not None:
        joined_logits(config.teacher, data, get_task(config.task))
        if any(getattr(student, "table", None) == "random" for student in _students(config)):
            logger.warning("student.table: drawn, since teacher.logits is a file, which has no hidden states")
    tuned = config.teacher.fine_tune
    for parameter, name in (
        ("teacher.checkpoint", config.teacher.checkpoint),
        ("teacher.fine_tune.checkpoint", tuned.checkpoint if tuned else None),
        *((f"student.{each.source_key}", each.source) for each in _students(config)),
    ):
        if name is None:
            continue
        share = check_known(checkpoints.tokenizer(name), texts_of(data.splits["train"]), parameter)
        if share > _MANY_UNKNOWN:
            logger.warning(
                "%s: its tokenizer does not know %.0f %% of the characters of the training texts; use a student "
                "for their language and script",
                parameter,
                100 * share,
            )


def check_new_pieces(
    config: JobConfig, data: TextData, new_tokenizer: Callable[[], Any] | None = None
) -> None:
    """Reject a student that does not fit the word pieces that a new teacher will have.

    A teacher trained from scratch takes its word pieces from the training texts, as does a file of logits for the
    students; that is fast enough to do here.

    Args:
        config: The specification.
        data: The texts.
        new_tokenizer: Returns the tokenizer with these word pieces; None trains it.

    Raises:
        ModelError: For example, the student's vocabulary is too small; the message has the minimum.
    """
    from ....training.teacher.from_scratch import train_tokenizer

    scratch = config.teacher.scratch or config.teacher.logits
    if scratch is not None:
        texts = texts_of(data.splits["train"])
        make = new_tokenizer or (lambda: train_tokenizer(texts, scratch.vocab_size))
        for student in _students(config):
            student.check_new_tokenizer(make)


def _students(config: JobConfig) -> list[StudentConfig]:
    """Return the section of each kind of student that the job tries."""
    from ....search.space.students import student_sections

    return [section for section, _ in student_sections(config.student, config.search.space)]
