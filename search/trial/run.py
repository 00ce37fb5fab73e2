"""Run one trial on a worker, from the student's initial checkpoint to its last epoch."""

from __future__ import annotations

import json
import os
import platform
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from ray.util import get_node_ip_address
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from ...errors import InputError, StorageError
from ...storage.environment import remove_process_group
from ...storage.store import Store
from ...storage.temporary import temporary_directory
from ...training import tasks
from ...training.checkpoints.load import load_classifier, load_model, load_tokenizer
from ...training.data.collator import DistillationCollator
from ...training.data.tokenized import JoinedDataset
from ...training.distillation.arguments import arguments_from_config
from ...training.distillation.callbacks import callbacks_of
from ...training.distillation.losses.base import NEED_TEACHER_MODEL, needs_of, terms_of
from ...training.distillation.trainer import DistillationTrainer
from ...training.machine import describe_device
from ...training.models.first_token import first_token_in_last_layer
from ...training.models.trainable_embedding_rows import train_used_rows
from ..space.batches import part_of_batch
from ..space.space import is_training_argument
from ..trial_record import trial_name
from .checkpoints import SavedEpoch, delete_checkpoints, download_checkpoint, saved_epochs
from .device import own_device
from .events import TrialEvents
from .inputs import TrialInputs, TrialSettings
from .integrity import last_intact
from .log import trial_log
from .precision import precision_of, settled_bf16
from .process_group import KeepStep
from .ranks import SharedInputs, data_parallel, opened
from .reporter import EpochReporter, LastSaveIsModel, ReportedTrainer, failure_metrics

_BEGUN = "begun.json"  # arguments and training configuration of the trial in this folder


def run_trial(config: dict[str, Any], inputs: TrialInputs | SharedInputs, settings: TrialSettings) -> None:
    """Train a student with the trial's arguments, reporting and saving every epoch.

    An interrupted trial is resumed from its last epoch. A fault of the trial's own arguments (a loss that is not
    finite, a rejected value) is reported as its ``failure`` and not retried; a fault that a retry may fix (memory,
    disk, a lost worker, the storage) is raised, and Tune retries the trial from the last epoch. If a trial has several
    processes, this is rank 0, the only one that evaluates, reports, logs and saves.

    Args:
        config: ``number`` of the trial and its ``arguments``.
        inputs: Texts and logits that all trials share, read-only.
        settings: Settings that all trials share.

    Raises:
        StorageError: The storage did not respond to any retry, or is not accessible on this node; the search ends.
    """
    remove_process_group()  # variables inherited from the shell that started this node
    torch.set_num_threads(settings.num_threads)
    trial_id = trial_name(config["number"])
    _begin(trial_id, {"arguments": config["arguments"], "training": settings.training.model_dump()}, settings)
    with (
        trial_log(settings.store, f"{settings.logs}/{trial_id}") as log,
        temporary_directory("trial") as work,
        own_device(use_gpu=settings.use_gpu, mps=settings.mps),
    ):
        log(f"trial {trial_id} on {_where()}, {describe_device(use_gpu=settings.use_gpu)}")
        log(f"arguments: {json.dumps(config['arguments'])}")
        _run(trial_id, config["arguments"], inputs, settings, work, log)
        log("the trial ended")


def _run(
    trial_id: str,
    arguments: dict[str, Any],
    inputs: TrialInputs | SharedInputs,
    settings: TrialSettings,
    work: Path,
    log: Callable[[str], None],
) -> None:
    trial = f"{settings.experiment}/{trial_id}"
    saved = _report_again(settings.store, trial, log)
    last = saved[-1] if saved else None
    key = last.key if last else None
    if last:
        log(f"resuming after epoch {last.epoch}")
    first_step = last.record["step"] if last else 0
    events = TrialEvents(
        settings.store, f"{settings.tensorboard}/{trial_id}", arguments, first_step=first_step
    )
    try:
        if last is None or last.metrics["progress"] < 1:
            with data_parallel(
                settings.num_processes,
                _train_other_rank,
                (arguments, inputs, settings, key),
                use_gpu=settings.use_gpu,
                num_threads=settings.num_threads,
                log=log,
            ):
                inputs = opened(inputs).of(arguments)
                trainer = make_trainer(arguments, inputs, settings, work)
                log(f"precision: {precision_of(trainer.args)}")
                trainer.reporter = EpochReporter(trial, inputs, settings, events, log, saved)
                trainer.add_callback(trainer.reporter)
                try:
                    _train(trainer, settings.store, key, work)
                finally:
                    trainer.reporter.close()  # even if the trial is stopped inside a report
        events.end("success")
    except (OSError, RuntimeError, StorageError):
        raise
    except Exception as error:
        log(traceback.format_exc().rstrip())
        events.end("failure")
        events.send()
        shared = opened(inputs)
        also = (shared.goal, *settings.also)
        tune.report(failure_metrics(error, shared.task, also, with_threshold=shared.has_threshold))
    finally:
        events.close()


def _train_other_rank(
    arguments: dict[str, Any],
    inputs: TrialInputs | SharedInputs,
    settings: TrialSettings,
    key: str | None,
    work: Path,
) -> None:
    """Train in an additional process of the trial, which only makes the same steps on its part of each batch."""
    trainer = make_trainer(arguments, opened(inputs).of(arguments), settings, work)
    _train(trainer, settings.store, key, work)


def _train(trainer: DistillationTrainer, store: Store, key: str | None, work: Path) -> None:
    """Train from the beginning, or from a checkpoint."""
    checkpoint = _local_checkpoint(store, key, work)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def make_trainer(
    arguments: dict[str, Any], inputs: TrialInputs, settings: TrialSettings, work: Path
) -> ReportedTrainer:
    """Create the trainer of a process of the trial; each batch is split among the processes."""
    if settings.use_gpu and settings.gpu_share < 1:
        torch.cuda.set_per_process_memory_fraction(settings.gpu_share)
    own: dict[str, Any] = {
        "eval_strategy": "no",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "save_only_model": False,
        "logging_strategy": "steps",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not settings.use_gpu,
    }
    searched = {name: value for name, value in arguments.items() if is_training_argument(name)}
    training = settings.training_of(arguments)
    if not {"bf16", "fp16"} & (searched.keys() | training.arguments.keys()):
        own["bf16"] = settled_bf16(settings.store, settings.experiment, use_gpu=settings.use_gpu)
    args = arguments_from_config(training, str(work), **{**searched, **own})
    train = inputs.trained_on(arguments)
    num_steps = sum(map(len, train)) / (args.train_batch_size * args.gradient_accumulation_steps)
    args.logging_steps = max(1, round(num_steps / 10))
    args.per_device_train_batch_size = part_of_batch(args.per_device_train_batch_size, settings.num_processes)
    student, task = settings.store.fetch(inputs.student_of(arguments).key), tasks.get(inputs.task)
    model = load_model(student, complete=True, task=task)
    terms = terms_of(args)
    needs = needs_of(terms)
    runs_teacher = [each for each in terms if each.weight > 0 and each.needs & NEED_TEACHER_MODEL]
    teacher = (
        _teacher(settings.store, inputs.teacher, student, runs_teacher[0].path(), task)
        if runs_teacher
        else None
    )
    if not args.freeze_embeddings:
        train_used_rows(model, np.concatenate([split.tokens.input_ids for split in train]))
    if not runs_teacher:
        first_token_in_last_layer(model)
    # The order matters: random states and masks must be in the checkpoint before it is uploaded.
    callbacks: list[TrainerCallback] = [LastSaveIsModel()]
    callbacks += [KeepStep()] if settings.num_processes > 1 else []
    pruning = settings.pruning_of(arguments)
    callbacks += callbacks_of(settings.training.model_copy(update={"pruning": pruning}))
    trainer = ReportedTrainer(
        model=model,
        args=args,
        teacher_model=teacher,
        train_dataset=JoinedDataset(train, with_teacher="teacher_logits" in needs),
        data_collator=DistillationCollator(_pad_token_id(model), args.pad_to_multiple_of, task.of_tokens),
        callbacks=callbacks,
        task=task,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _teacher(store: Store, key: str | None, student: Path, weight: str, task: tasks.Task) -> PreTrainedModel:
    """Return the teacher, for a loss term that needs more than its cached logits.

    Args:
        store: Store of the teacher.
        key: Key of the teacher's checkpoint; None if the search has no teacher.
        student: Checkpoint of the student.
        weight: Name of the argument for the weight of the term.
        task: The task of both.

    Raises:
        InputError: There is no teacher, or its tokenizer differs from the student's.
    """
    if key is None:
        raise InputError(f"{weight} is above 0, but the search has no teacher")
    teacher, tokenizer = load_classifier(store.fetch(key), task)
    # The teacher gets the student's token ids, and layers are compared token by token.
    if load_tokenizer(student).get_vocab() != tokenizer.get_vocab():
        raise InputError(
            f"{weight} is above 0, but the student's tokenizer differs from the teacher's, so their hidden states "
            "belong to different tokens; set it to 0, or build the student from the teacher's layers "
            "(student.kind: layers) with its whole vocabulary"
        )
    return teacher


def _where() -> str:
    """Describe where the trial runs: host, address and id of the node, and process id."""
    node = ray.get_runtime_context().get_node_id()[:8]
    return f"{platform.node()} ({get_node_ip_address()}, node {node}, process {os.getpid()})"


def _pad_token_id(model: PreTrainedModel) -> int:
    pad = model.config.pad_token_id
    return 0 if pad is None else pad


def _begin(trial_id: str, begun: dict[str, Any], settings: TrialSettings) -> None:
    """Check that this node can access the trial's folders, and that they belong to the same trial.

    A search that was killed may have started trials that its last snapshot lacks. They are requested again by their
    numbers, and resumed. If the results that a suggestion depends on have changed, which can happen on a GPU or with
    early stopping, the number now has other arguments, and the trial starts over.
    """
    store = settings.store
    if store.directory is not None and not store.names(settings.experiment):
        raise StorageError(
            f"storage {store}: the search's folder does not exist on {platform.node()}; mount it, or use a "
            f"directory that all nodes share, or an object store; then resume with `distiltune resume RUN`"
        )
    trial = f"{settings.experiment}/{trial_id}"
    begun = json.loads(json.dumps(begun))  # the record as it will be parsed
    if store.read_json(f"{trial}/{_BEGUN}") == begun:
        return
    delete_checkpoints(store, trial)
    for other in (
        f"{trial}/result.json",
        f"{settings.tensorboard}/{trial_id}",
        f"{settings.logs}/{trial_id}",
    ):
        store.delete(other)
    store.write_json(f"{trial}/{_BEGUN}", begun)


def _report_again(store: Store, trial: str, log: Callable[[str], None]) -> list[SavedEpoch]:
    """Report the saved epochs to Tune again, and return them.

    They are missing from Tune's snapshot if the driver was killed some seconds after it. Epochs after the last intact
    checkpoint are trained again.
    """
    epochs = sorted(saved_epochs(store, trial), key=lambda each: each.epoch)
    last = last_intact(store, epochs, log)
    if last is None:  # a best epoch may be left, but it cannot be resumed
        delete_checkpoints(store, trial)
    epochs = epochs[: epochs.index(last) + 1] if last else []
    for each in epochs:
        tune.report({**each.metrics, "again": each is not last})
    return epochs


def _local_checkpoint(store: Store, key: str | None, work: Path) -> Path | None:
    """Return the local path of the checkpoint, downloading it if needed."""
    if key is None:
        return None
    if store.directory is not None:
        return store.directory / key
    return download_checkpoint(store, key, work / "resumed")
