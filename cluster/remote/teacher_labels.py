"""Tasks that prepare the teachers and label a student's training texts with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import ModelError
from ...progress import Progress, ReportProgress
from ...search.space.space import fixed_values
from ...training import tasks
from ...training.checkpoints.load import load_tokenizer
from ...training.checkpoints.unfinished import UnfinishedTraining
from ...training.data.text_data import TextData
from ...training.data.tokenized import LabelledSplit, TokenizedSplit, tokenize_split
from ...training.data.transfer_set import extra_splits, extra_texts
from ...training.student.vocabulary import respelled
from ...training.teacher.logits_cache import logits_key, teacher_logits
from ...training.teacher.prepare import prepare_teacher, read_record
from ..store.runs import LOGITS
from .tasks import Task

LOGITS_DTYPE = "float32"


def make_teacher(task: Task, data: TextData, number: int, key: str) -> dict[str, Any]:
    """Prepare one of the teachers (``number`` counts from 0) and store it at ``key``, unless it exists."""
    config = task.local_config
    unfinished = UnfinishedTraining(task.store, f"{task.unfinished}-{key.rpartition('/')[2]}")
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


def label_with_teachers(
    task: Task, data: TextData, teacher_keys: list[str]
) -> tuple[dict[str, LabelledSplit], dict[str, Any]]:
    """Return the splits' token ids and the teachers' mean logits on all training texts, cached if possible.

    Training texts are ``train`` and the transfer sets, by kind, which are labelled only by the teachers. The logits on
    the validation split are for diagnostics. With alpha fixed to 1 no logits are used, and none computed.

    Returns:
        The splits by kind, and a record; with several teachers it has ``ensemble``, the metrics of their mean logits
        on the validation split.

    Raises:
        ModelError: The teachers have different word pieces.
    """
    config, first = task.local_config, task.store.fetch(teacher_keys[0])
    learned = tasks.get(config.task)
    tokenizer, length = load_tokenizer(first), config.training.num_tokens
    tokens = {
        name: learned.tokenize(data.splits[name], tokenizer, length) for name in ("train", "validation")
    }
    record: dict[str, Any] = {"texts_computed": 0, "keys": {}, "texts": {}}
    splits = {name: LabelledSplit(each) for name, each in tokens.items()}
    if fixed_values(config.search).get("alpha") == 1:
        return splits, record
    for key in teacher_keys[1:]:
        if load_tokenizer(task.store.fetch(key)).get_vocab() != tokenizer.get_vocab():
            raise ModelError(
                "teacher.ensemble: the teachers have different word pieces; use fine_tune, or set it to 1"
            )
    for name, each in {
        "train": tokens["train"],
        **{
            kind: _unlabelled(each, data, learned)
            for kind, each in extra_splits(config.data, data, tokenizer, length).items()
        },
    }.items():
        logits, keys, computed = _mean_logits(task, teacher_keys, each, name)
        splits[name] = LabelledSplit(each, logits)
        record["texts_computed"] += len(each) if computed else 0
        record["keys"][name] = keys
        record["texts"][name] = len(each)
    validation = tokens["validation"]
    logits, _, _ = _mean_logits(task, teacher_keys, validation, "validation")
    splits["validation"] = LabelledSplit(validation, logits)
    if len(teacher_keys) > 1:
        metrics = learned.measured(
            learned.predictions(logits),
            validation.labels,
            data.out_of_scope_id,
            also=[config.metric],
            label_names=data.label_names,
        )
        record["ensemble"] = {f"validation_{name}": value for name, value in metrics.items()}
    return splits, record


def _unlabelled(split: TokenizedSplit, data: TextData, task: tasks.Task) -> TokenizedSplit:
    """Return a split with missing labels of the task's type and shape."""
    labels = task.missing_labels(len(split), task.num_outputs(data.class_names))
    return replace(split, labels=labels)


def _mean_logits(
    task: Task, teacher_keys: list[str], split: TokenizedSplit, name: str
) -> tuple[np.ndarray, list[str], bool]:
    """Return mean logits float32[N, C], each teacher's cache key, and whether any logits had to be computed."""
    length = task.config.training.num_tokens
    total, keys, computed = np.zeros(0), [], False
    for number, teacher_key in enumerate(teacher_keys, 1):
        whose = f"teacher {number} of {len(teacher_keys)}" if len(teacher_keys) > 1 else "the teacher"
        report = _labelling(
            task, f"labelling the texts of {name} with {whose}", number - 1, len(teacher_keys)
        )
        report(Progress("", {"done": 0, "total": len(split)}))
        teacher = task.store.fetch(teacher_key)
        key = f"{LOGITS}/{logits_key(teacher, split, length, LOGITS_DTYPE)}"
        found = teacher_logits(
            teacher,
            split,
            max_length=length,
            cache_dir=task.local_copy(key).parent,
            dtype=LOGITS_DTYPE,
            num_threads=task.num_threads,
            use_gpu=task.use_gpu,
            task=tasks.get(task.config.task),
            report=report,
        )
        task.store.publish(key, shared=True)
        total = found.logits.astype(np.float64) if number == 1 else total + found.logits
        keys.append(found.key)
        computed = computed or found.computed
    return (total / len(teacher_keys)).astype(np.float32), keys, computed


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
    tokens = {
        name: learned.tokenize(data.splits[name], tokenizer, length)
        if name in data.splits
        else _unlabelled(tokenize_split(extra[name], None, tokenizer, length), data, learned)
        for name in splits
        if name in data.splits or name in extra
    }
    if "masked" in splits:
        teachers = load_tokenizer(task.store.fetch(teacher_key))
        tokens["masked"] = respelled(splits["masked"].tokens, teachers, tokenizer, length)
    return {name: LabelledSplit(tokens[name], split.teacher_logits) for name, split in splits.items()}
