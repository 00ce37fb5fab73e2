"""Tasks that prepare the teachers and label a student's training texts with them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ...errors import ModelError
from ...progress import Progress, ReportProgress
from ...search.space.space import fixed_values
from ...texts import texts_of
from ...training import tasks
from ...training.checkpoints.load import load_tokenizer
from ...training.checkpoints.unfinished import UnfinishedTraining
from ...training.data.text_data import TextData
from ...training.data.tokenized import LabelledSplit, TokenizedSplit, selected
from ...training.data.transfer_set import extra_splits, extra_texts, least_certain
from ...training.ragged import Rows
from ...training.student.vocabulary import respelled
from ...training.teacher.config import naming_teacher
from ...training.teacher.file_teacher import stored_logits
from ...training.teacher.logits_cache import LogitsResult, logits_key, teacher_logits
from ...training.teacher.mixture import VALIDATION, fit_mixture, measure_mixture
from ...training.teacher.prepare import prepare_teacher, read_record
from ..specification.config import JobConfig
from ..store.runs import LOGITS
from .tasks import Task

TEST = "test"
SELECTION_TEMPERATURE = 2.0
"""Temperature of the distribution whose entropy selects texts; at 1, it is near zero for most of them."""


def make_teacher(task: Task, data: TextData, number: int, key: str) -> dict[str, Any]:
    """Prepare one of the teachers (``number`` counts from 0) and store it at ``key``, unless it exists."""
    config = task.local_config
    unfinished = UnfinishedTraining(task.store, f"{task.unfinished}-{key.rpartition('/')[2]}")
    with task.computed_once(key, "prepares the same teacher"), naming_teacher(_path(config, number)):
        record = prepare_teacher(
            config.teacher.members[number],
            data,
            task.local_copy(key),
            max_length=config.training.num_tokens,
            num_threads=task.num_threads,
            use_gpu=task.use_gpu,
            task=tasks.get(config.task),
            balance=config.training.balance,
            report=task.report,
            unfinished=unfinished,
            metric=config.metric,
        )
        task.store.publish(key, shared=True)
    unfinished.forget()
    return {**record, **read_record(task.store.fetch(key))}


def _path(config: JobConfig, number: int) -> str:
    """Return the path of the section of one of the teachers."""
    sections = config.teacher.sections()
    return ".".join(sections[number if config.teacher.are_different else 0][0])


def label_with_teacher(task: Task, data: TextData, teacher_keys: list[str], number: int) -> list[str]:
    """Cache the logits of one of several teachers (``number`` counts from 0) on all texts that they label.

    Returns:
        The kinds of texts whose logits had to be computed.

    Raises:
        ModelError: Logits per token are mixed, and the teacher's tokens differ from the first teacher's.
    """
    if task.config.teacher.members[number].logits is not None:
        return []  # a file has its logits already
    report = partial(_report_labelling, task, num_before=0, num_teachers=1)
    return [
        name
        for name, split in _TextsToLabel(task, data, teacher_keys).of(number).items()
        if _logits_of(task, teacher_keys[number], split, report(f"labelling the texts of {name}")).computed
    ]


def label_with_teachers(
    task: Task, data: TextData, teacher_keys: list[str], computed: Collection[str] = ()
) -> tuple[dict[str, LabelledSplit], dict[str, Any]]:
    """Return all training texts with the first teacher's token ids and the mixture of the teachers' logits.

    Training texts are ``train`` and the transfer sets, by kind, which are labelled only by the teachers. The logits on
    the validation split are for diagnostics, and for temperatures and weights of a mixture. If alpha is fixed to 1, no
    logits are computed.

    Args:
        task: Context of the task.
        data: The texts.
        teacher_keys: Keys of the prepared teachers.
        computed: Kinds of texts whose logits other tasks of this stage have just computed and cached.

    Returns:
        The splits by kind, and a record; with several teachers it has ``ensemble``, the result of ``measure_mixture``.

    Raises:
        ConfigError: Weights are fitted, and no validation text has the logits of all teachers.
        ModelError: Logits per token are mixed, and a teacher's tokens differ from the first teacher's.
    """
    record: dict[str, Any] = {"texts_computed": 0, "keys": {}, "texts": {}}
    if fixed_values(task.config.search).get("alpha") == 1:
        tokens = _tokens(task, data, load_tokenizer(task.store.fetch(teacher_keys[0])))
        return {name: LabelledSplit(each) for name, each in tokens.items()}, record
    texts, config = _TextsToLabel(task, data, teacher_keys), task.config.teacher
    found = [_labelled(task, texts, number) for number in range(len(teacher_keys))]
    own = texts.of(0)
    logits = {name: [each[name].logits for each in found] for name in own}
    mixture = fit_mixture(config, logits[VALIDATION], own[VALIDATION].labels, tasks.get(task.config.task))
    splits = {
        name: _selected(task.config, name, LabelledSplit(each, mixture.of(logits[name])))
        for name, each in own.items()
        if name != TEST
    }
    for name in (each for each in splits if each != VALIDATION):
        labelled = [each[name] for each in found]
        is_new = name in computed or any(each.computed for each in labelled)
        record["texts_computed"] += len(own[name]) if is_new else 0
        record["keys"][name] = [each.key for each in labelled if each.key is not None]
        record["texts"][name] = len(own[name])
    if len(teacher_keys) > 1:
        metric, measured = task.config.metric, {name: logits[name] for name in (VALIDATION, TEST)}
        mode = tasks.get(task.config.task).metric_mode(metric)
        record["ensemble"] = measure_mixture(
            config, mixture, measured, partial(_metrics, task, data, own), metric, mode
        )
    return splits, record


def _selected(config: JobConfig, kind: str, split: LabelledSplit) -> LabelledSplit:
    """Return the texts of a kind that are used: all, or those candidates that the teachers are least certain about."""
    num, logits = config.data.augmentation.num_selected.get(kind), split.teacher_logits
    if num is None or num >= len(split) or not isinstance(logits, np.ndarray):
        return split
    probabilities = tasks.get(config.task).class_probabilities(logits / SELECTION_TEMPERATURE)
    assert probabilities is not None, "checked with the specification"
    rows = least_certain(probabilities, num)
    return LabelledSplit(selected(split.tokens, rows.tolist()), logits[rows], rows)


def _metrics(
    task: Task,
    data: TextData,
    texts: dict[str, TokenizedSplit],
    split: str,
    logits: Rows,
    rows: np.ndarray | None,
) -> dict[str, float | None]:
    """Evaluate logits on the texts of a split, or on its texts ``rows``."""
    learned, own = tasks.get(task.config.task), texts[split]
    return learned.measured_on(
        own if rows is None else selected(own, rows.tolist()),
        logits,
        data.out_of_scope_id,
        also=[task.config.metric],
        label_names=data.label_names,
    )


def _tokens(task: Task, data: TextData, tokenizer: Any) -> dict[str, TokenizedSplit]:
    """Tokenize the splits that a search needs."""
    learned, length = tasks.get(task.config.task), task.config.training.num_tokens
    return {name: learned.tokenize(data.splits[name], tokenizer, length) for name in ("train", VALIDATION)}


class _TextsToLabel:
    """The texts to label, tokenized for each teacher; teachers with the same tokenizer share the tokenized texts.

    Args:
        task: Context of the task.
        data: The texts.
        teacher_keys: Keys of the prepared teachers.
    """

    def __init__(self, task: Task, data: TextData, teacher_keys: list[str]) -> None:
        self.teacher_keys = teacher_keys
        self._task, self._data = task, data
        self._config, self._learned = task.local_config, tasks.get(task.config.task)
        self._tokenized: dict[str, dict[str, TokenizedSplit]] = {}

    def of(self, number: int) -> dict[str, TokenizedSplit]:
        """Return a teacher's texts by kind: ``train``, transfer sets, ``validation``; with several teachers ``test``.

        Raises:
            ModelError: Logits per token are mixed, and the teacher's tokens differ from the first teacher's.
        """
        folder = self._task.store.fetch(self.teacher_keys[number])
        tokenizer = load_tokenizer(folder)
        fingerprint = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
        if fingerprint not in self._tokenized:
            self._tokenized[fingerprint] = self._tokenize(tokenizer)
        found = self._tokenized[fingerprint]
        if number and self._learned.of_tokens:
            self._check_tokens(number, found)
        return found

    def _tokenize(self, tokenizer: Any) -> dict[str, TokenizedSplit]:
        data, length, learned = self._data, self._config.training.num_tokens, self._learned
        tokens = _tokens(self._task, data, tokenizer)
        found = {
            "train": tokens["train"],
            **extra_splits(self._config.data, data, tokenizer, length, learned),
            VALIDATION: tokens[VALIDATION],
        }
        if len(self.teacher_keys) > 1:  # the teachers and their mixture are evaluated there
            found[TEST] = learned.tokenize(data.splits[TEST], tokenizer, length)
        return found

    def _check_tokens(self, number: int, found: dict[str, TokenizedSplit]) -> None:
        first = self.of(0)
        if any(not np.array_equal(first[name].example_ids, each.example_ids) for name, each in found.items()):
            raise ModelError(
                f"{_path(self._config, number)}: its tokens differ from those of the first teacher, and the task "
                f"{self._learned.name} has logits for each token, which are joined token by token; use teachers of one "
                "tokenizer"
            )


@dataclass(frozen=True)
class _Labelled:
    """Logits of a teacher on texts of one kind; ``key`` is that of the cache, None for a file of logits."""

    logits: Rows
    key: str | None = None
    computed: bool = False


def _labelled(task: Task, texts: _TextsToLabel, number: int) -> dict[str, _Labelled]:
    """Return the logits of a teacher (``number`` counts from 0) on all texts, by kind."""
    keys, found = texts.teacher_keys, {}
    if task.config.teacher.members[number].logits is not None:
        folder = task.store.fetch(keys[number])
        return {name: _Labelled(stored_logits(folder, name)) for name in texts.of(0)}
    teacher = f"teacher {number + 1} of {len(keys)}" if len(keys) > 1 else "the teacher"
    for name, split in texts.of(number).items():
        report = _report_labelling(task, f"labelling the texts of {name} with {teacher}", number, len(keys))
        labelled = _logits_of(task, keys[number], split, report)
        found[name] = _Labelled(labelled.logits, labelled.key, labelled.computed)
    return found


def _logits_of(task: Task, teacher_key: str, split: TokenizedSplit, report: ReportProgress) -> LogitsResult:
    """Return a teacher's logits on a split from the cache, or compute and store them there."""
    report(Progress("", {"done": 0, "total": len(split)}))
    teacher, length = task.store.fetch(teacher_key), task.config.training.num_tokens
    dtype = task.config.training.logits_precision
    key = f"{LOGITS}/{logits_key(teacher, split, length, dtype)}"
    with task.computed_once(key, "labels the same texts with the same teacher"):
        found = teacher_logits(
            teacher,
            split,
            max_length=length,
            cache_dir=task.local_copy(key).parent,
            dtype=dtype,
            num_threads=task.num_threads,
            use_gpu=task.use_gpu,
            task=tasks.get(task.config.task),
            report=report,
        )
        task.store.publish(key, shared=True)
    return found


def _report_labelling(task: Task, what: str, num_before: int, num_teachers: int) -> ReportProgress:
    """Return a callback for one teacher's progress, which reports it as a part of the texts of all teachers."""

    def report(progress: Progress) -> None:
        done, total = progress.values["done"], progress.values["total"]
        counts = {"done": num_before * total + done, "total": num_teachers * total}
        task.report(Progress("; ".join(filter(None, [what, progress.message])), counts))

    return report


def tokenize_for_student(
    task: Task, data: TextData, teacher_key: str, student_key: str, splits: dict[str, LabelledSplit]
) -> dict[str, LabelledSplit]:
    """Tokenize the rows of ``splits`` again with the student's own word pieces, and keep their logits."""
    tokenizer, length = load_tokenizer(task.store.fetch(student_key)), task.config.training.num_tokens
    learned, extra = tasks.get(task.config.task), extra_texts(task.config.data, data)
    teachers, outputs = load_tokenizer(task.store.fetch(teacher_key)), learned.num_outputs(data.class_names)
    found: dict[str, LabelledSplit] = {}
    for name, split in splits.items():
        if name in data.splits:
            texts = texts_of(data.splits[name])
            tokens = learned.tokenize(data.splits[name], tokenizer, length)
        elif name in extra:
            texts = extra[name] if split.selected is None else [extra[name][row] for row in split.selected]
            tokens = learned.tokenize_texts(texts, tokenizer, length, outputs)
        else:  # masked word pieces have no text to tokenize
            tokens, texts = respelled(split.tokens, teachers, tokenizer, length), []
        own = LabelledSplit(tokens, split.teacher_logits)
        found[name] = learned.with_logits_of(own, texts, teachers, tokenizer, length)
    return found
