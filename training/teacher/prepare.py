"""Load, fine-tune or train a teacher from scratch, and save it with its labels in the data's order."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...errors import DataError, user_path
from ...progress import ReportProgress
from ...storage.folders import file_sha256, new_folder
from ...storage.temporary import temporary_directory
from ..checkpoints.load import (
    checkpoint_fingerprint,
    resolve_checkpoint,
    save_checkpoint,
)
from ..checkpoints.unfinished import KeepEpochs, UnfinishedTraining
from ..data.text_data import ID_COLUMN, TextData
from ..data.tokenized import TokenizedSplit
from ..distillation.arguments import resumed_bf16
from ..distillation.config import TrainingConfig
from ..models.first_token import first_token_in_last_layer
from ..models.inference import compute_logits
from ..models.runtime import evaluation_device, intra_op_threads, quiet
from ..section import Balance
from ..tasks import SINGLE_LABEL, Task
from .best_epoch import BestEpoch
from .config import OneTeacher
from .contrastive import contrastive_of, fine_tune_contrastively
from .file_teacher import prepare_file_teacher
from .initial import InitialTeacher, initial_teacher
from .trainer import teacher_trainer

logger = logging.getLogger(__name__)

RECORD_FILE = "teacher.json"
_FORMAT = 4


def teacher_key(
    config: OneTeacher,
    data: TextData,
    training: TrainingConfig,
    task: Task = SINGLE_LABEL,
    metric: str | None = None,
) -> str:
    """Return a hash of all that a teacher depends on: section, data, length, task, metric, balance, checkpoint.

    A local checkpoint is hashed by its content, independent of its path; a hub id by its name.

    Raises:
        ModelError: The initial checkpoint does not exist.
    """
    return _key(config, data, training.num_tokens, task, metric, training.balance)


def prepare_teacher(
    config: OneTeacher,
    data: TextData,
    out_dir: Path,
    *,
    max_length: int,
    num_threads: int,
    report: ReportProgress | None = None,
    use_gpu: bool | None = None,
    task: Task = SINGLE_LABEL,
    balance: Balance = "none",
    unfinished: UnfinishedTraining | None = None,
    metric: str | None = None,
) -> dict[str, Any]:
    """Write the teacher's checkpoint to ``out_dir``, unless it already exists there.

    Args:
        config: The section of one teacher: one of the ``members`` of ``teacher``.
        data: The teacher is trained on its training split; the best epoch is selected on its validation split.
        out_dir: Written atomically: safetensors, configuration with the labels in the data's order, tokenizer, and
            ``teacher.json``, the record. An existing identical teacher is not modified.
        max_length: Tokens that texts are cut to.
        num_threads: Intra-op threads.
        report: Called when training begins, and after each epoch with the values ``epoch``, ``validation_accuracy``
            and the job's metric; ``done`` and ``total`` count epochs.
        use_gpu: Whether a GPU may be used; None uses one if available.
        task: The task that it is trained for.
        balance: How labels with different numbers of texts are balanced in its training (``training.balance``).
        unfinished: Place for the last completed epoch, from which an interrupted training is resumed, bit for bit on
            CPUs; to be deleted by the caller once the teacher is stored.
        metric: The metric in which the best epoch is selected; None: the task's first.

    Returns:
        The record: ``kind`` (checkpoint, fine_tune, scratch, or logits, whose record is that of
        ``prepare_file_teacher``), ``validation_accuracy`` and the other metrics of the saved model, ``num_parameters``,
        ``num_layers``, ``epochs`` (each with its metrics), ``best_epoch`` (None without training),
        ``contrastive_epochs`` where the encoder had any, ``seconds``, ``key``, ``fingerprint``, and ``reused``.

    Raises:
        ModelError: The checkpoint cannot be loaded, its labels are not the data's, its tokenizer does not cover the
            texts' characters, texts may exceed its positions, or training ended with weights that are not finite.
    """
    began = time.monotonic()
    key = _key(config, data, max_length, task, metric, balance)
    goal = metric or task.goal[0]
    if config.logits is not None:
        return prepare_file_teacher(config, data, out_dir, key=key, task=task, metric=goal)
    record = _existing_record(out_dir, key)
    if record is not None:
        return {**record, "reused": True}
    replaced = out_dir.exists()  # another teacher, or a damaged one
    with intra_op_threads(num_threads), quiet():
        torch.manual_seed(config.seed)
        initial = initial_teacher(config, data, max_length, task)
        splits = {
            name: task.tokenize(data.splits[name], initial.tokenizer, max_length)
            for name in ("train", "validation")
        }
        measure = partial(_measure, initial, splits["validation"], data, goal, num_threads, use_gpu)
        trained: dict[str, Any] = {"epochs": [], "best_epoch": None}
        if initial.recipe is not None:
            doing = "fine-tuning" if config.fine_tune is not None else "training"
            best = BestEpoch(initial.model, measure, report, goal, task.metric_mode(goal), doing)
            on_gpu = evaluation_device(use_gpu).type != "cpu"
            contrastive = contrastive_of(initial)
            if contrastive is not None:
                trained["contrastive_epochs"] = contrastive.num_train_epochs
                unfinished = _train_encoder(
                    initial, splits["train"], config.seed, data.out_of_scope_id, report, unfinished, on_gpu
                )
            _train(initial, splits["train"], config.seed, best, unfinished, balance, use_gpu=on_gpu)
            trained |= {"epochs": best.epochs, "best_epoch": best.number}
        metrics = measure()
    kind = next(name for name in ("checkpoint", "fine_tune", "scratch") if getattr(config, name) is not None)
    record = {
        "kind": kind,
        **{f"validation_{name}": value for name, value in metrics.items()},
        "num_parameters": initial.model.num_parameters(),
        "num_layers": initial.model.config.num_hidden_layers,
        **trained,
        "seconds": round(time.monotonic() - began, 3),
        "key": key,
    }
    # If another process wrote the same teacher first, it may be in use: keep it.
    for keep_existing in (not replaced, False):
        saved = _save(initial, record, out_dir, keep_existing=keep_existing)
        existing = _existing_record(out_dir, key)
        if existing is not None:
            return {**existing, "reused": existing != saved}
    raise AssertionError("what was just written can be read")


def read_record(directory: Path) -> dict[str, Any]:
    """Read the record that ``prepare_teacher`` wrote to a directory.

    Raises:
        FileNotFoundError: There is none.
    """
    return json.loads((directory / RECORD_FILE).read_text(encoding="utf-8"))


def _save(
    initial: InitialTeacher, record: dict[str, Any], out_dir: Path, *, keep_existing: bool
) -> dict[str, Any]:
    """Write the checkpoint and its record; return the record with the checkpoint's fingerprint."""
    with new_folder(out_dir, keep_existing=keep_existing) as folder:
        save_checkpoint(initial.model.cpu(), initial.tokenizer, folder)
        record = {**record, "fingerprint": checkpoint_fingerprint(folder)}
        (folder / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def _key(
    config: OneTeacher,
    data: TextData,
    max_length: int,
    task: Task,
    metric: str | None,
    balance: Balance,
) -> str:
    settings = config.identity()
    if config.logits is not None:
        splits = data.splits.values()
        # The file is joined with these, besides the texts of the splits.
        settings["joined"] = [
            data.unlabelled,
            [each[ID_COLUMN][:] for each in splits if ID_COLUMN in each.column_names],
        ]
        settings["logits"]["path"] = file_sha256(
            user_path(config.logits.path, "teacher.logits.path", DataError)
        )
    source = settings if config.checkpoint is not None else settings["fine_tune"]  # None for the other kinds
    if source is not None:
        name = resolve_checkpoint(source["checkpoint"], source.get("sha256"))
        source["checkpoint"] = checkpoint_fingerprint(name) if Path(name).is_dir() else name
    trained = balance if config.is_trained else None  # a finished classifier is used as it is
    parts = [_FORMAT, task.name, metric or task.goal[0], settings, data.fingerprint, max_length, trained]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _existing_record(out_dir: Path, key: str) -> dict[str, Any] | None:
    """Return the record of the teacher in ``out_dir`` if its key is ``key``, else None."""
    try:
        record = read_record(out_dir)
    except FileNotFoundError:
        return None
    except ValueError:
        record = {}
    if record.get("key") == key and record.get("fingerprint") == checkpoint_fingerprint(out_dir):
        return record
    logger.warning("%s: contains a different or damaged teacher; preparing it again", out_dir)
    return None


def _measure(
    initial: InitialTeacher,
    split: TokenizedSplit,
    data: TextData,
    metric: str,
    num_threads: int,
    use_gpu: bool | None,
) -> dict[str, float | None]:
    logits = compute_logits(
        initial.model,
        split,
        pad_token_id=initial.tokenizer.pad_token_id,
        num_threads=num_threads,
        use_gpu=use_gpu,
    )
    return initial.task.measured_on(
        split,
        logits,
        data.out_of_scope_id,
        also=[metric],
        label_names=data.label_names,
    )


def _train_encoder(
    initial: InitialTeacher,
    train: TokenizedSplit,
    seed: int,
    out_of_scope_id: int | None,
    report: ReportProgress | None,
    unfinished: UnfinishedTraining | None,
    use_gpu: bool,
) -> UnfinishedTraining | None:
    """Fine-tune the encoder contrastively, in place, unless the classifier's training is resumed.

    Returns:
        The place for the epochs of the classifier.
    """
    before, after = (None, None) if unfinished is None else map(unfinished.below, ("encoder", "classifier"))
    if after is None or after.last() is None:
        fine_tune_contrastively(initial, train, seed, out_of_scope_id, report, before, use_gpu=use_gpu)
    return after


def _train(
    initial: InitialTeacher,
    train: TokenizedSplit,
    seed: int,
    best: BestEpoch,
    unfinished: UnfinishedTraining | None,
    balance: Balance,
    *,
    use_gpu: bool,
) -> None:
    """Train in place and restore the best epoch's weights."""
    last = unfinished.last() if unfinished else None
    with temporary_directory("teacher") as work:
        callbacks = [best, *([KeepEpochs(unfinished)] if unfinished else [])]
        trainer = teacher_trainer(
            initial,
            train,
            seed,
            work,
            callbacks,
            balance,
            saves=unfinished is not None,
            use_gpu=use_gpu,
            bf16=resumed_bf16(last, use_cpu=not use_gpu),
        )
        with first_token_in_last_layer(initial.model):
            if last is not None:
                best.load(last)
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
    best.restore()
