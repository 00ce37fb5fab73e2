"""Pretrain the encoder of a student, as configured by the section ``student.pretraining``."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from ...errors import ModelError
from ...progress import Progress, ReportProgress
from ...storage.temporary import temporary_directory
from ...texts import TextOrPair
from ..checkpoints.load import load_config, load_tokenizer, resolve_checkpoint
from ..checkpoints.masked_lm import (
    check_head,
    copy_encoder,
    head_parameters,
    load_masked_lm,
    masked_lm_around,
)
from ..checkpoints.unfinished import KeepEpochs, UnfinishedTraining
from ..data.tokenized import TokenizedDataset, TokenizedSplit, selected, tokenize_split
from ..distillation.arguments import resumed_bf16
from ..models.runtime import evaluation_device, intra_op_threads, quiet
from ..models.structured_pruning import KEPT_HEADS
from .arguments import PretrainingArguments
from .config import PretrainingConfig
from .trainer import PretrainingTrainer

logger = logging.getLogger(__name__)

_WEIGHT_DECAY = 0.01
_NUM_MEASURED = 512  # texts: enough for a mean, and a small part of an epoch


def pretrain_student(
    student: PreTrainedModel,
    tokenizer: Any,
    teacher_dir: Path,
    texts: Sequence[TextOrPair],
    config: PretrainingConfig,
    *,
    max_length: int,
    num_threads: int | None = None,
    use_gpu: bool | None = None,
    report: ReportProgress | None = None,
    unfinished: UnfinishedTraining | None = None,
) -> dict[str, Any]:
    """Pretrain a student's encoder in place; its pooler and its classification head are not changed.

    Args:
        student: A classifier of a known family.
        tokenizer: The student's tokenizer.
        teacher_dir: Used as the teacher, unless the section names a ``checkpoint``.
        texts: Training texts.
        config: The ``student.pretraining`` section.
        max_length: Tokens that texts are cut to.
        num_threads: Intra-op threads; None does not change them.
        use_gpu: Whether a GPU may be used; None uses one if available.
        report: Called with the losses of the last steps.
        unfinished: Place for the last completed epoch of each training, from which an interrupted one is resumed, bit
            for bit on CPUs; to be deleted by the caller once the student is stored.

    Returns:
        ``num_texts``, ``steps``, ``head`` (source of the teacher's masked-language head: ``checkpoint``, ``trained``,
        or ``none`` if it has none and none is needed), ``losses``: the loss and its parts that have weight, over up to
        512 of the texts, without dropout and with the same masks at ``start`` and ``end``; and ``seconds``, the total
        time.

    Raises:
        ModelError: There are no texts; teacher and student do not match; the teacher has no masked-language head
            and ``head_epochs`` is 0; or the training ended with weights that are not finite.
    """
    began = time.monotonic()
    if not texts:
        raise ModelError(
            "student.pretraining: there are no texts to train on; set data.unlabelled, or remove the section"
        )
    learnt_from = _learnt_from(config, teacher_dir)
    check_pair(config, student.config, tokenizer, load_config(learnt_from), load_tokenizer(learnt_from))
    with intra_op_threads(num_threads or torch.get_num_threads()), quiet():
        torch.manual_seed(config.seed)
        split = _tokenized(texts, tokenizer, config, max_length)
        run = _Run(config, tokenizer, split, evaluation_device(use_gpu).type == "cpu", report, unfinished)
        teacher, head = _teacher(learnt_from, run)
        torch.manual_seed(config.seed)  # again: the head's training may or may not have been resumed
        model = masked_lm_around(student, teacher if head != "none" else None)
        losses, steps = run.train(
            model, teacher, config, config.num_train_epochs, "pretraining", kept_as="encoder"
        )
        copy_encoder(model.cpu(), student)
    return {
        "num_texts": len(split),
        "steps": steps,
        "head": head,
        "losses": losses,
        "seconds": round(time.monotonic() - began, 3),
    }


def check_pretraining(config: PretrainingConfig, student: str | None, teacher: str | None) -> None:
    """Reject, before the job starts, models that ``pretrain_student`` would reject.

    Args:
        config: The section ``student.pretraining``.
        student: The student's checkpoint; None for a student built from the teacher's layers.
        teacher: The teacher's checkpoint; None if it does not exist yet.

    Raises:
        ModelError: Two models do not match; names them and the reason.
    """
    learnt_from = resolve_checkpoint(config.checkpoint) if config.checkpoint else teacher
    own = teacher if student is None else resolve_checkpoint(student)
    if learnt_from is not None and own is not None:
        models = (
            load_config(own),
            load_tokenizer(own),
            load_config(learnt_from),
            load_tokenizer(learnt_from),
        )
        check_pair(config, *models)


def check_pair(
    config: PretrainingConfig, student: Any, tokenizer: Any, teacher: Any, teachers_tokenizer: Any
) -> None:
    """Raise ``ModelError`` unless the configurations and tokenizers of student and teacher match."""
    for each in (student, teacher):
        check_head(each)
    if hasattr(teacher, KEPT_HEADS):
        raise ModelError(
            f"student.pretraining: the model that it learns from has fewer attention heads ({KEPT_HEADS} of its "
            "config.json), which masked-language models do not support; set student.pretraining.checkpoint to a "
            "model with all its heads"
        )
    if tokenizer.mask_token_id is None:
        raise ModelError("student.pretraining: the student's tokenizer has no mask token; remove the section")
    if (config.beta or config.gamma) and tokenizer.get_vocab() != teachers_tokenizer.get_vocab():
        raise ModelError(
            f"student.pretraining: the student has {len(tokenizer):,} word pieces, and the model that it learns "
            f"from has {len(teachers_tokenizer):,} different ones; set student.pretraining.checkpoint to a model "
            f"with the same pieces, or set beta and gamma to 0"
        )
    if config.gamma and student.hidden_size != teacher.hidden_size:
        raise ModelError(
            f"student.pretraining.gamma: {config.gamma} given; the cosine needs equal widths, but the student's is "
            f"{student.hidden_size} and that of the model that it learns from is {teacher.hidden_size}; set it to 0"
        )


def _learnt_from(config: PretrainingConfig, teacher_dir: Path) -> str:
    """Return the checkpoint of the model to learn from: that of the section, or else the teacher's."""
    return resolve_checkpoint(config.checkpoint) if config.checkpoint else str(teacher_dir)


def _tokenized(
    texts: Sequence[TextOrPair], tokenizer: Any, config: PretrainingConfig, max_length: int
) -> TokenizedSplit:
    """Tokenize the texts, or a sample of ``max_texts`` of them in their order."""
    order = np.random.default_rng(config.seed).permutation(len(texts))[: config.max_texts]
    chosen = [texts[int(index)] for index in np.sort(order)]
    return tokenize_split(chosen, None, tokenizer, max_length)


class _Run:
    """Train masked-language models as configured by one section."""

    def __init__(
        self,
        config: PretrainingConfig,
        tokenizer: Any,
        split: TokenizedSplit,
        use_cpu: bool,
        report: ReportProgress | None,
        unfinished: UnfinishedTraining | None,
    ) -> None:
        self.config = config
        self._unfinished = unfinished
        self._tokenizer = tokenizer
        self._split = split
        self._use_cpu = use_cpu
        self._report = report

    def train(
        self,
        model: Any,
        teacher: Any,
        weights: PretrainingConfig,
        epochs: int,
        name: str,
        *,
        kept_as: str,
    ) -> tuple[dict[str, dict[str, float]], int]:
        """Train in place; return the losses at start and end, and the number of steps."""
        unfinished = self._unfinished.below(kept_as) if self._unfinished else None
        last = unfinished.last() if unfinished else None
        with temporary_directory("pretraining") as work:
            callbacks = [
                _LossReporter(name, self._report),
                *([KeepEpochs(unfinished)] if unfinished else []),
            ]
            bf16 = resumed_bf16(last, use_cpu=self._use_cpu)
            trainer = self.trainer(
                model, teacher, weights, epochs, work, callbacks, saves=unfinished is not None, bf16=bf16
            )
            start = self._measure(trainer)
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
            end = self._measure(trainer)
        if not all(map(math.isfinite, end.values())):
            raise ModelError(
                f"student.pretraining.learning_rate: {self.config.learning_rate:g} given, but training ({name}) ended "
                f"with weights that are not finite; lower it"
            )
        return {"start": start, "end": end}, int(trainer.state.global_step)

    def trainer(
        self,
        model: Any,
        teacher: Any,
        weights: PretrainingConfig,
        epochs: float,
        work: Path,
        callbacks: list[TrainerCallback],
        *,
        saves: bool,
        bf16: bool | None = None,
    ) -> PretrainingTrainer:
        """Create a trainer; if it ``saves``, it writes a checkpoint to ``work`` after each epoch."""
        config = self.config
        trainer = PretrainingTrainer(
            model=model,
            args=PretrainingArguments(
                output_dir=str(work),
                **weights.model_dump(include={"alpha", "beta", "gamma"}),
                temperature=config.temperature,
                mlm_probability=config.mlm_probability,
                distil_positions=config.distil_positions,
                seed=config.seed,
                num_train_epochs=epochs,
                learning_rate=config.learning_rate,
                per_device_train_batch_size=config.batch_size,
                warmup_steps=config.warmup_ratio,  # below 1: a share of all steps
                weight_decay=_WEIGHT_DECAY,
                eval_strategy="no",
                save_strategy="epoch" if saves else "no",
                logging_first_step=True,
                disable_tqdm=True,
                use_cpu=self._use_cpu,
                bf16=bf16,
                dataloader_pin_memory=not self._use_cpu,
            ),
            teacher_model=teacher,
            train_dataset=TokenizedDataset(self._split),
            processing_class=self._tokenizer,
            callbacks=callbacks,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _measure(self, trainer: PretrainingTrainer) -> dict[str, float]:
        some = selected(self._split, range(min(len(self._split), _NUM_MEASURED)))
        metrics = trainer.evaluate(TokenizedDataset(some))  # pyright: ignore[reportArgumentType]
        names = ("loss", "masked_lm", "distillation", "cosine")
        return {name: metrics[f"eval_{name}"] for name in names if f"eval_{name}" in metrics}


def _teacher(name: str, run: _Run) -> tuple[PreTrainedModel | None, str]:
    """Return the teacher, if beta or gamma needs one, and the source of its head."""
    config = run.config
    if not config.beta and not config.gamma:
        return None, "none"
    teacher, has_head = load_masked_lm(name)
    if has_head:
        return teacher, "checkpoint"
    if not config.beta:
        logger.info("%s has no masked-language head; none is needed, since beta is 0", name)
        return teacher, "none"
    if not config.head_epochs:
        raise ModelError(
            f"student.pretraining.head_epochs: 0 given, but {name} has no masked-language head, without which its "
            f"predictions are noise; set a number of epochs to train one, set student.pretraining.checkpoint to a "
            f"model that has one, or set beta to 0"
        )
    logger.info("%s has no masked-language head; training one on its frozen encoder", name)
    masked = _only_head(teacher, config)
    run.train(teacher, None, masked, config.head_epochs, "the teacher's masked-language head", kept_as="head")
    return teacher, "trained"


def _only_head(teacher: PreTrainedModel, config: PretrainingConfig) -> PretrainingConfig:
    """Freeze all of a teacher but its masked-language head; return the section to train that head with."""
    teacher.requires_grad_(False)
    for _, parameter in head_parameters(teacher):
        parameter.requires_grad_(True)
    for module in teacher.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # so that the head is trained on the same inputs that it gets afterwards
    return config.model_copy(update={"alpha": 1.0, "beta": 0.0, "gamma": 0.0})


def pretraining_trainers(
    student: PreTrainedModel,
    tokenizer: Any,
    teacher_dir: Path,
    texts: Sequence[TextOrPair],
    config: PretrainingConfig,
    *,
    max_length: int,
    work: Path,
) -> list[tuple[PretrainingTrainer, float, TokenizedSplit]]:
    """Return the trainers of ``pretrain_student`` without training, for measurements of their steps.

    Args:
        student: A classifier of a known family.
        tokenizer: The student's tokenizer.
        teacher_dir: The teacher, unless the section names a ``checkpoint``.
        texts: Training texts.
        config: The ``student.pretraining`` section.
        max_length: Tokens that texts are cut to.
        work: Directory for their checkpoints.

    Returns:
        Each trainer with its epochs and its texts: that of the teacher's masked-language head, where it needs one,
        and that of the student's encoder.
    """
    learnt_from = _learnt_from(config, teacher_dir)
    split = _tokenized(texts, tokenizer, config, max_length)
    run = _Run(config, tokenizer, split, evaluation_device(None).type == "cpu", None, None)
    teacher, has_head, needs_head = None, False, False
    if config.beta or config.gamma:
        teacher, has_head = load_masked_lm(learnt_from)
        needs_head = not has_head and config.beta > 0
    found = []
    if teacher is not None and needs_head:
        head = run.trainer(
            teacher, None, _only_head(teacher, config), config.head_epochs, work / "head", [], saves=True
        )
        found.append((head, config.head_epochs, split))
    model = masked_lm_around(student, teacher if has_head or needs_head else None)
    encoder = run.trainer(model, teacher, config, config.num_train_epochs, work / "encoder", [], saves=True)
    return [*found, (encoder, config.num_train_epochs, split)]


class _LossReporter(TrainerCallback):
    def __init__(self, name: str, report: ReportProgress | None) -> None:
        self._name = name
        self._report = report

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Report the losses of the last steps."""
        if self._report is not None and logs and "loss" in logs:
            message = f"{self._name}: step {state.global_step} of {state.max_steps}, loss {logs['loss']:.3f}"
            values = {"done": state.global_step, "total": state.max_steps, "loss": float(logs["loss"])}
            self._report(Progress(message, values))
