"""Check that the tokenizers, labels and word pieces of a job's models fit its texts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ....texts import texts_of
from ....training.tasks import get as get_task
from ...specification.config import JobConfig

if TYPE_CHECKING:
    from ....texts import TextOrPair
    from ....training.checkpoints.once import Checkpoints
    from ....training.data.text_data import TextData
    from ....training.student.config import StudentConfig
    from ....training.tasks import Task
    from ....training.teacher.config import OneTeacher

logger = logging.getLogger(__name__)

_NUM_COMPARED = 200  # training texts, read by two tokenizers
_MANY_UNKNOWN = 0.1  # share of characters: below 0.01 for ordinary texts, 0.05 with an emoji in each


def check_texts(config: JobConfig, data: TextData, checkpoints: Checkpoints | None = None) -> None:
    """Reject a checkpoint whose labels do not match the data, or whose tokenizer does not cover its script.

    Labels that the task cannot learn are logged as a warning.

    Raises:
        ModelError: A checkpoint does not fit; the message has its key, and the labels or the share of unknown text.
    """
    from ....training.checkpoints.once import Checkpoints
    from ....training.checkpoints.word_pieces import check_known
    from ....training.teacher.config import naming_teacher

    checkpoints, task = checkpoints or Checkpoints(), get_task(config.task)
    _warn_of_labels(data, task)
    encoders: list[tuple[str, str | None]] = []
    covered = np.ones(len(data.splits["validation"]), dtype=bool)
    for path, teacher in config.teacher.sections():
        with naming_teacher(".".join(path)):
            covered &= _check_labels(teacher, data, task, checkpoints)
        key = "checkpoint" if teacher.fine_tune is None else "fine_tune.checkpoint"
        encoders.append((f"{'.'.join(path)}.{key}", teacher.encoder))
    has_drawn_table = any(getattr(student, "table", None) == "random" for student in _students(config))
    if config.teacher.first.logits is not None and has_drawn_table:
        logger.warning("student.table: drawn, since teacher.logits is a file, which has no hidden states")
    _check_fitted_weights(config, int(covered.sum()))
    if task.of_tokens and config.teacher.are_different:
        _check_same_tokens(encoders, texts_of(data.splits["train"]), checkpoints, task)
    students = [(f"student.{each.source_key}", each.source) for each in _students(config)]
    for parameter, name in (*encoders, *students):
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


def _warn_of_labels(data: TextData, task: Task) -> None:
    """Warn of labels that cannot be learned, once for each split."""
    for name, split in data.splits.items():
        for warning in task.warnings(texts_of(split), split[task.label_column][:], data.label_names):
            logger.warning("%s split: %s", name, warning)


def _check_labels(teacher: OneTeacher, data: TextData, task: Task, checkpoints: Checkpoints) -> np.ndarray:
    """Reject a teacher whose labels are not those of the data, or a file of logits that does not fit its texts.

    Returns:
        bool[N]: whether the teacher has logits of each validation text.
    """
    from ....training.checkpoints.heads import LabelMatch
    from ....training.checkpoints.load import label_names, load_config
    from ....training.teacher.file_teacher import joined_logits
    from ....training.teacher.logits_file import missing_rows

    if teacher.checkpoint is not None:
        own = label_names(load_config(checkpoints.directory(teacher.checkpoint)))
        match = LabelMatch(teacher.labels, teacher.drop_labels, "teacher")
        match.positions(own, data.class_names, "teacher.checkpoint", task)
    if teacher.logits is not None:
        return ~missing_rows(joined_logits(teacher, data, task)["validation"])
    return np.ones(len(data.splits["validation"]), dtype=bool)


def _check_fitted_weights(config: JobConfig, num_texts: int) -> None:
    """Warn if few validation texts have the logits of all teachers, which ``teacher.weights: fit`` needs.

    Args:
        config: The specification.
        num_texts: Validation texts that have the logits of all teachers.

    Raises:
        ConfigError: There are none.
    """
    from ....training.teacher.config import FIT

    if config.teacher.weights != FIT:
        return
    from ....training.teacher.mixture import LEAST_TEXTS, check_covered

    check_covered(num_texts)
    num_weights = config.teacher.num_members
    if num_texts < LEAST_TEXTS * num_weights:
        logger.warning(
            "teacher.weights: fit, but all teachers have logits of %d validation texts, on which %d weights are "
            "uncertain (%d or more are needed); give the weights, or more texts in data.validation",
            num_texts,
            num_weights,
            LEAST_TEXTS * num_weights,
        )


def _check_same_tokens(
    encoders: Sequence[tuple[str, str | None]],
    texts: Sequence[TextOrPair],
    checkpoints: Checkpoints,
    task: Task,
) -> None:
    """Reject teachers that tokenize training texts differently from the first, for tasks with logits per token.

    Raises:
        ModelError: The message has the key of the teacher.
    """
    from ....errors import ModelError

    (_, name), *others = encoders
    sample, expected = [*texts[:_NUM_COMPARED]], None
    for parameter, other in others:
        if name is None or other is None:  # trained from scratch, with the same word pieces
            continue
        expected = (
            expected or checkpoints.tokenizer(name)(sample, padding=False, truncation=False)["input_ids"]
        )
        if checkpoints.tokenizer(other)(sample, padding=False, truncation=False)["input_ids"] != expected:
            raise ModelError(
                f"{parameter}: {other} given, whose tokenizer differs from that of the first teacher, and the task "
                f"{task.name} has logits for each token, which are joined token by token; use teachers of one tokenizer"
            )


def check_new_pieces(
    config: JobConfig, data: TextData, new_tokenizer: Callable[[], Any] | None = None
) -> None:
    """Reject a student that does not fit the word pieces that a new teacher will have.

    A teacher trained from scratch learns its word pieces from the training texts; so do the students of a file of
    logits. Learning them is fast enough to do here.

    Args:
        config: The specification.
        data: The texts.
        new_tokenizer: Returns the tokenizer with these word pieces; None trains it.

    Raises:
        ModelError: For example, the student's vocabulary is too small; the message has the minimum.
    """
    from ....training.teacher.from_scratch import train_tokenizer

    scratch = config.teacher.first.scratch or config.teacher.first.logits
    if scratch is not None:
        texts = texts_of(data.splits["train"])
        make = new_tokenizer or (lambda: train_tokenizer(texts, scratch.vocab_size))
        for student in _students(config):
            student.check_new_tokenizer(make)


def _students(config: JobConfig) -> list[StudentConfig]:
    """Return the section of each kind of student that the job tries."""
    from ....search.space.students import student_sections

    return [section for section, _ in student_sections(config.student, config.search.space)]
