"""The task that labels one fold of the training texts with a teacher trained on the others; its logits are cached."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from ...storage.folders import new_folder
from ...training import tasks
from ...training.checkpoints.unfinished import UnfinishedTraining
from ...training.data.text_data import TextData
from ...training.teacher.cross_fit import fold_logits, fold_teacher
from .tasks import Task

logger = logging.getLogger(__name__)

_LOGITS = "logits.npy"


def label_fold(task: Task, data: TextData, rows: list[int], key: str) -> tuple[np.ndarray, bool]:
    """Return logits float32[n, C] of a fold's n rows, and whether they were computed rather than cached at ``key``."""
    config = task.local_config
    unfinished = UnfinishedTraining(task.store, f"{task.unfinished}-{key.rpartition('/')[2]}")
    with task.computed_once(key, "trains a teacher on the same fold"):
        folder = task.local_copy(key)
        known = _read(folder, len(rows))
        if known is not None:
            return known, False
        logits = fold_logits(
            fold_teacher(config.data.diagnostics, config.teacher),
            data,
            rows,
            max_length=config.training.num_tokens,
            num_threads=task.num_threads,
            use_gpu=task.use_gpu,
            task=tasks.get(config.task),
            balance=config.training.balance,
            metric=config.metric,
            report=task.report,
            unfinished=unfinished,
        )
        with new_folder(folder) as made:
            np.save(made / _LOGITS, logits)
        task.store.publish(key, shared=True)
    unfinished.forget()
    return logits, True


def _read(folder: Path, num_rows: int) -> np.ndarray | None:
    """Return the logits in a folder of the cache; None if there are none, or they are damaged."""
    if not folder.exists():
        return None
    try:
        logits = np.load(folder / _LOGITS)
    except (OSError, ValueError, EOFError) as error:
        logger.warning("%s: cannot be read (%s); training the fold's teacher again", folder, error)
        return None
    return logits if logits.ndim == 2 and len(logits) == num_rows else None
