"""The trainer of a teacher that has a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from ..data.collator import DistillationCollator
from ..data.tokenized import TokenizedDataset, TokenizedSplit
from ..distillation.arguments import DistillationTrainingArguments
from ..distillation.trainer import DistillationTrainer
from ..models.trainable_embedding_rows import train_used_rows
from ..section import Balance, OptimizationConfig
from .initial import InitialTeacher

_WEIGHT_DECAY = 0.01
Kind = TypeVar("Kind", bound=DistillationTrainer)


def teacher_trainer(
    initial: InitialTeacher,
    train: TokenizedSplit,
    seed: int,
    work: Path,
    callbacks: list[TrainerCallback],
    balance: Balance = "none",
    *,
    saves: bool,
    use_gpu: bool,
    bf16: bool | None = None,
) -> DistillationTrainer:
    """Create the trainer of a teacher that has a recipe; arguments as in ``make_trainer``."""
    recipe = initial.recipe
    assert recipe is not None
    return make_trainer(
        DistillationTrainer,
        recipe,
        initial,
        train,
        seed,
        work,
        callbacks,
        balance,
        saves=saves,
        use_gpu=use_gpu,
        bf16=bf16,
    )


def make_trainer(
    kind: type[Kind],
    recipe: OptimizationConfig,
    initial: InitialTeacher,
    train: TokenizedSplit,
    seed: int,
    work: Path,
    callbacks: list[TrainerCallback],
    balance: Balance = "none",
    *,
    saves: bool,
    use_gpu: bool,
    bf16: bool | None = None,
    **more: Any,
) -> Kind:
    """Create a trainer of a teacher.

    Args:
        kind: Class of the trainer.
        recipe: The optimization.
        initial: The teacher; of its embedding table only the rows that the texts use are trained.
        train: Tokenized training split.
        seed: Seed of shuffling and dropout.
        work: Directory for checkpoints.
        callbacks: Added to the trainer's own.
        balance: The job's key ``training.balance``.
        saves: Whether a checkpoint is saved after each epoch.
        use_gpu: Whether to train on a GPU.
        bf16: Whether to train in bfloat16; None: if the hardware multiplies it.
        **more: Further arguments of that class.
    """
    train_used_rows(initial.model, train.input_ids)
    trainer = kind(
        model=initial.model,
        args=DistillationTrainingArguments(
            output_dir=str(work),
            alpha=1.0,
            seed=seed,
            balance=balance,
            num_train_epochs=recipe.num_train_epochs,
            learning_rate=recipe.learning_rate,
            per_device_train_batch_size=recipe.batch_size,
            warmup_steps=recipe.warmup_ratio,  # below 1: a share of all steps
            weight_decay=_WEIGHT_DECAY,
            eval_strategy="no",
            save_strategy="epoch" if saves else "no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=not use_gpu,
            bf16=bf16,
            dataloader_pin_memory=use_gpu,
        ),
        train_dataset=TokenizedDataset(train),
        data_collator=DistillationCollator(initial.tokenizer.pad_token_id, of_tokens=initial.task.of_tokens),
        callbacks=callbacks,
        task=initial.task,
        **more,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
