"""Cross-fitting: logits on each training text from a teacher of the same kind that was trained without it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...progress import ReportProgress
from ...storage.temporary import temporary_directory
from ...texts import texts_of
from ..data.analysis.config import DiagnosticsConfig
from ..data.splitting import folds
from ..ragged import flat
from ..section import Balance
from ..tasks import SINGLE_LABEL, Task
from .config import FineTuneConfig, OneTeacher, ScratchConfig, TeacherConfig

if TYPE_CHECKING:
    import numpy as np

    from ..checkpoints.unfinished import UnfinishedTraining
    from ..data.text_data import TextData
    from ..distillation.config import TrainingConfig

_FORMAT = 1


def cross_fit_epochs(config: DiagnosticsConfig, teacher: TeacherConfig) -> int:
    """Return the epochs of each fold's training.

    By default a fine-tuned teacher has half of its epochs, at least 1, and a teacher from scratch all of them, since it
    has learned little after half.
    """
    recipe = _recipe(teacher)
    if config.cross_fit_epochs is not None:
        return config.cross_fit_epochs
    return (
        recipe.num_train_epochs if isinstance(recipe, ScratchConfig) else max(1, recipe.num_train_epochs // 2)
    )


def cross_fit_work(config: DiagnosticsConfig, teacher: TeacherConfig, num_texts: int) -> int:
    """Return the additional work of cross-fitting in epochs x texts of teacher training; 0 without it.

    Args:
        config: The section ``data.diagnostics``.
        teacher: The section ``teacher``.
        num_texts: Number of training texts.
    """
    if config.cross_fit is None:
        return 0
    return cross_fit_epochs(config, teacher) * (config.cross_fit - 1) * num_texts


def fold_teacher(config: DiagnosticsConfig, teacher: TeacherConfig) -> OneTeacher:
    """Return the section of a fold's teacher: the job's first one, with the epochs of a fold."""
    recipe = _recipe(teacher)
    short = recipe.model_copy(update={"num_train_epochs": cross_fit_epochs(config, teacher)})
    name = "scratch" if isinstance(recipe, ScratchConfig) else "fine_tune"
    return teacher.first.model_copy(update={name: short})


def folds_of(config: DiagnosticsConfig, data: TextData, seed: int) -> list[list[int]]:
    """Return the rows of the training split in each fold.

    Raises:
        DataError: A label has fewer distinct texts than there are folds.
    """
    assert config.cross_fit is not None
    train, names = data.splits["train"], data.label_names
    return folds(texts_of(train), [names[label] for label in train["label"][:]], config.cross_fit, seed)


def fold_key(
    teacher: OneTeacher,
    data: TextData,
    training: TrainingConfig,
    rows: Sequence[int],
    task: Task = SINGLE_LABEL,
    metric: str | None = None,
) -> str:
    """Return a hash of all that a fold's logits depend on: the section ``fold_teacher``, the data and the rows.

    Raises:
        ModelError: The initial checkpoint does not exist.
    """
    from .prepare import teacher_key

    parts = [_FORMAT, "cross_fit", teacher_key(teacher, data, training, task, metric), list(rows)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def fold_logits(
    teacher: OneTeacher,
    data: TextData,
    rows: Sequence[int],
    *,
    max_length: int,
    num_threads: int,
    use_gpu: bool | None = None,
    task: Task = SINGLE_LABEL,
    balance: Balance = "none",
    metric: str | None = None,
    report: ReportProgress | None = None,
    unfinished: UnfinishedTraining | None = None,
) -> np.ndarray:
    """Train a teacher on the training texts outside of a fold; return its logits float32[n, C] on the fold.

    Args:
        teacher: The section of ``fold_teacher``.
        data: All texts; the best epoch is selected on the validation split, as for the job's teacher.
        rows: The n rows of the training split in the fold.
        max_length: Tokens to which texts are truncated.
        num_threads: Intra-op threads.
        use_gpu: Whether a GPU may be used; None uses one if available.
        task: The task.
        balance: The job's key ``training.balance``.
        metric: The metric in which the best epoch is selected; None: the task's first.
        report: Called after each epoch.
        unfinished: Place for the last completed epoch, as in ``prepare_teacher``.

    Raises:
        ModelError: As in ``prepare_teacher``.
    """
    from ..checkpoints.load import load_classifier
    from ..models.inference import compute_logits
    from .prepare import prepare_teacher

    train, held_out = data.splits["train"], set(rows)
    rest = [row for row in range(len(train)) if row not in held_out]
    splits = type(data.splits)({**data.splits, "train": train.select(rest)})
    with temporary_directory("cross-fit") as work:
        prepare_teacher(
            teacher,
            replace(data, splits=splits),
            work / "teacher",
            max_length=max_length,
            num_threads=num_threads,
            use_gpu=use_gpu,
            task=task,
            balance=balance,
            metric=metric,
            report=report,
            unfinished=unfinished,
        )
        model, tokenizer = load_classifier(work / "teacher", task)
    return flat(
        compute_logits(
            model,
            task.tokenize(train.select(rows), tokenizer, max_length),
            pad_token_id=tokenizer.pad_token_id,
            num_threads=num_threads,
            use_gpu=use_gpu,
        )
    )


def _recipe(teacher: TeacherConfig) -> FineTuneConfig | ScratchConfig:
    recipe = teacher.first.fine_tune or teacher.first.scratch
    assert recipe is not None, "the specification rejects cross_fit with a finished checkpoint"
    return recipe
