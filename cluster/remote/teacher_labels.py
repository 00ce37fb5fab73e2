"""Tasks that prepare the teachers and label a student's training texts with them."""

from __future__ import annotations

from collections.abc import Collection
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
from ...training.data.tokenized import LabelledSplit, TokenizedSplit
from ...training.data.transfer_set import extra_splits, extra_texts
from ...training.ragged import Rows, flat, like
from ...training.student.vocabulary import respelled
from ...training.teacher.file_teacher import stored_logits
from ...training.teacher.logits_cache import LogitsResult, logits_key, teacher_logits
from ...training.teacher.prepare import prepare_teacher, read_record
from ..store.runs import LOGITS
from .tasks import Task


def make_teacher(task: Task, data: TextData, number: int, key: str) -> dict[str, Any]:
    """Prepare one of the teachers (``number`` counts from 0) and store it at ``key``, unless it exists."""
    config = task.local_config
    unfinished = UnfinishedTraining(task.store, f"{task.unfinished}-{key.rpartition('/')[2]}")
    with task.computed_once(key, "prepares the same teacher"):
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


def label_with_teacher(task: Task, data: TextData, teacher_keys: list[str], number: int) -> list[str]:
    """Cache the logits of one of several teachers (``number`` counts from 0) on all texts that a student needs.

    Returns:
        The kinds of texts whose logits had to be computed.

    Raises:
        ModelError: The teachers have different word pieces.
    """
    report = partial(_labelling, task, num_before=0, num_teachers=1)
    return [
        name
        for name, split in _texts_to_label(task, data, teacher_keys).items()
        if _logits_of(task, teacher_keys[number], split, report(f"labelling the texts of {name}")).computed
    ]


def label_with_teachers(
    task: Task, data: TextData, teacher_keys: list[str], computed: Collection[str] = ()
) -> tuple[dict[str, LabelledSplit], dict[str, Any]]:
    """Return the splits' token ids and the teachers' mean logits on all training texts, cached if possible.

    Training texts are ``train`` and the transfer sets, by kind, which are labelled only by the teachers. The logits on
    the validation split are for diagnostics. With alpha fixed to 1 no logits are used, and none computed.

    Args:
        task: Context of the task.
        data: The texts.
        teacher_keys: Keys of the prepared teachers; the first one's word pieces are those of all.
        computed: Kinds of texts whose logits other tasks of this stage have just computed and cached.

    Returns:
        The splits by kind, and a record; with several teachers it has ``ensemble``, the metrics of their mean logits
        on the validation split.

    Raises:
        ModelError: The teachers have different word pieces.
    """
    record: dict[str, Any] = {"texts_computed": 0, "keys": {}, "texts": {}}
    if fixed_values(task.config.search).get("alpha") == 1:
        tokens = _tokens(task, data, load_tokenizer(task.store.fetch(teacher_keys[0])))
        return {name: LabelledSplit(each) for name, each in tokens.items()}, record
    splits: dict[str, LabelledSplit] = {}
    from_file = task.config.teacher.logits is not None
    for name, each in _texts_to_label(task, data, teacher_keys).items():
        if from_file:
            logits, keys, is_new = stored_logits(task.store.fetch(teacher_keys[0]), name), [], False
        else:
            logits, keys, is_new = _mean_logits(task, teacher_keys, each, name)
        splits[name] = LabelledSplit(each, logits)
        if name != "validation":
            record["texts_computed"] += len(each) if is_new or name in computed else 0
            record["keys"][name] = keys
            record["texts"][name] = len(each)
    if len(teacher_keys) > 1:
        record["ensemble"] = _validation_metrics(task, data, splits["validation"])
    return splits, record


def _validation_metrics(task: Task, data: TextData, validation: LabelledSplit) -> dict[str, Any]:
    """Return the metrics of logits on the validation split, by their names in a record."""
    learned, logits = tasks.get(task.config.task), validation.teacher_logits
    assert logits is not None, "they have just been computed"
    metrics = learned.measured_on(
        validation.tokens,
        logits,
        data.out_of_scope_id,
        also=[task.config.metric],
        label_names=data.label_names,
    )
    return {f"validation_{name}": value for name, value in metrics.items()}


def _tokens(task: Task, data: TextData, tokenizer: Any) -> dict[str, TokenizedSplit]:
    """Tokenize the splits that a search needs."""
    learned, length = tasks.get(task.config.task), task.config.training.num_tokens
    return {name: learned.tokenize(data.splits[name], tokenizer, length) for name in ("train", "validation")}


def _texts_to_label(task: Task, data: TextData, teacher_keys: list[str]) -> dict[str, TokenizedSplit]:
    """Return the token ids of all texts that the teachers label, by kind; ``validation`` is the last.

    Raises:
        ModelError: The teachers have different word pieces.
    """
    config, learned = task.local_config, tasks.get(task.config.task)
    tokenizer = load_tokenizer(task.store.fetch(teacher_keys[0]))
    for key in teacher_keys[1:]:
        if load_tokenizer(task.store.fetch(key)).get_vocab() != tokenizer.get_vocab():
            raise ModelError(
                "teacher.ensemble: the teachers have different word pieces; use fine_tune, or set it to 1"
            )
    tokens = _tokens(task, data, tokenizer)
    extra = extra_splits(config.data, data, tokenizer, config.training.num_tokens, learned)
    return {"train": tokens["train"], **extra, "validation": tokens["validation"]}


def _mean_logits(
    task: Task, teacher_keys: list[str], split: TokenizedSplit, name: str
) -> tuple[Rows, list[str], bool]:
    """Return mean logits, each teacher's cache key, and whether any logits had to be computed."""
    total, keys, computed, form = np.zeros(0), [], False, None
    for number, teacher_key in enumerate(teacher_keys, 1):
        whose = f"teacher {number} of {len(teacher_keys)}" if len(teacher_keys) > 1 else "the teacher"
        report = _labelling(
            task, f"labelling the texts of {name} with {whose}", number - 1, len(teacher_keys)
        )
        found = _logits_of(task, teacher_key, split, report)
        form = found.logits
        total = flat(form).astype(np.float64) if number == 1 else total + flat(form)
        keys.append(found.key)
        computed = computed or found.computed
    assert form is not None, "there is a teacher"
    return like(form, (total / len(teacher_keys)).astype(np.float32)), keys, computed


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


def _labelling(task: Task, what: str, num_before: int, num_teachers: int) -> ReportProgress:
    """Return a callback for the progress of one of the teachers, which counts the texts of all teachers."""

    def report(progress: Progress) -> None:
        done, total = progress.values["done"], progress.values["total"]
        counts = {"done": num_before * total + done, "total": num_teachers * total}
        task.report(Progress("; ".join(filter(None, [what, progress.message])), counts))

    return report


def tokenize_for_student(
    task: Task, data: TextData, teacher_key: str, student_key: str, splits: dict[str, LabelledSplit]
) -> dict[str, LabelledSplit]:
    """Tokenize the same rows with the student's own word pieces, and keep the logits."""
    tokenizer, length = load_tokenizer(task.store.fetch(student_key)), task.config.training.num_tokens
    learned, extra = tasks.get(task.config.task), extra_texts(task.config.data, data)
    teachers, outputs = load_tokenizer(task.store.fetch(teacher_key)), learned.num_outputs(data.class_names)
    found: dict[str, LabelledSplit] = {}
    for name, split in splits.items():
        if name in data.splits:
            texts = texts_of(data.splits[name])
            tokens = learned.tokenize(data.splits[name], tokenizer, length)
        elif name in extra:
            tokens, texts = learned.tokenize_texts(extra[name], tokenizer, length, outputs), extra[name]
        else:  # masked pieces, which are no text
            tokens, texts = respelled(split.tokens, teachers, tokenizer, length), []
        own = LabelledSplit(tokens, split.teacher_logits)
        found[name] = learned.with_logits_of(own, texts, teachers, tokenizer, length)
    return found
