"""Build the student that every trial starts from, of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...progress import ReportProgress
from ...storage.folders import new_folder
from ...texts import TextOrPair
from ..checkpoints.load import save_checkpoint
from ..checkpoints.unfinished import UnfinishedTraining
from ..tasks import SINGLE_LABEL, Task
from .kinds.base import StudentConfig, StudentInputs
from .piece_states import StatesCache


def build_student(
    config: StudentConfig,
    teacher_dir: Path,
    label_names: list[str],
    out_dir: Path,
    *,
    max_length: int | None = None,
    texts: tuple[Sequence[TextOrPair], Sequence[TextOrPair]] = ((), ()),
    labels: Sequence[Any] = (),
    validation_texts: Sequence[TextOrPair] = (),
    num_threads: int | None = None,
    use_gpu: bool | None = None,
    report: ReportProgress | None = None,
    task: Task = SINGLE_LABEL,
    unfinished: UnfinishedTraining | None = None,
    states: StatesCache | None = None,
) -> dict[str, Any]:
    """Write the student's starting checkpoint, with its tokenizer, to ``out_dir``.

    A student may have its own tokenizer (``config.own_tokenizer``), so that its token ids, and the example ids computed
    from them, differ from the teacher's. Tokenize the same texts in the same order for it and transfer the teacher's
    logits row by row; example ids join rows only inside the logits cache.

    Args:
        config: The ``student`` section, of any kind.
        teacher_dir: The prepared teacher.
        label_names: Labels in the data's order; the student's head has this order.
        out_dir: Replaced if it exists.
        max_length: Tokens that texts are cut to; None skips the check of the student's positions.
        texts: Training texts, and others without labels.
        labels: Labels of the training texts.
        validation_texts: Texts on which the coverage of a trimmed vocabulary is measured.
        num_threads: Intra-op threads; None does not change them.
        use_gpu: Whether a GPU may be used; None uses one if available.
        report: Called with the progress of slow steps: the pretraining, and the teacher's states of word pieces.
        task: The task of student and teacher.
        unfinished: Place for the last completed epoch of the pretraining; see ``pretrain_student``.
        states: Keeps the teacher's states of word pieces for other students; None: they are not kept.

    Returns:
        ``num_parameters``, and the record of :class:`~.kinds.base.BuiltStudent`.

    Raises:
        ModelError: As :meth:`StudentConfig.build` of its kind.
    """
    torch.manual_seed(config.seed)
    built = config.build(
        StudentInputs(
            teacher_dir=teacher_dir,
            label_names=label_names,
            max_length=max_length,
            texts=texts[0],
            more_texts=texts[1],
            labels=labels,
            validation_texts=validation_texts,
            num_threads=num_threads,
            use_gpu=use_gpu,
            report=report,
            task=task,
            unfinished=unfinished,
            states=states,
        )
    )
    with new_folder(out_dir) as folder:
        save_checkpoint(built.model, built.tokenizer, folder)
    return {"num_parameters": built.model.num_parameters(), **built.record}
