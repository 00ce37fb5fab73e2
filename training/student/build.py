"""Build the student that every trial starts from: a checkpoint, or selected layers of the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ...progress import ReportProgress
from ...storage.folders import new_folder
from ..checkpoints.heads import has_labels, load_with_labels, match_labels
from ..checkpoints.load import (
    check_max_length,
    load_classifier,
    load_tokenizer,
    resolve_checkpoint,
    save_checkpoint,
)
from ..checkpoints.word_pieces import check_known, check_table
from ..distillation.config import TrainingConfig
from ..models.families import family_of
from ..models.structured_pruning import num_heads, num_rows
from ..models.tied_embedding_rows import share_rows
from ..pretraining.pretrain_student import pretrain_student
from ..tasks import SINGLE_LABEL, Task
from .config import StudentConfig, VocabularyConfig
from .layers import student_from_layers
from .logit_change import StepParity
from .vocabulary import covered_share, pieces_to_keep, trim_vocabulary
from .width import narrow


def build_student(
    config: StudentConfig,
    teacher_dir: Path,
    label_names: list[str],
    out_dir: Path,
    *,
    max_length: int | None = None,
    texts: tuple[Sequence[str], Sequence[str]] = ((), ()),
    labels: Sequence[int] = (),
    validation_texts: Sequence[str] = (),
    num_threads: int | None = None,
    use_gpu: bool | None = None,
    report: ReportProgress | None = None,
    task: Task = SINGLE_LABEL,
) -> dict[str, Any]:
    """Write the student's starting checkpoint, with its tokenizer, to ``out_dir``.

    A student from a checkpoint has its own tokenizer, so its token ids, and the example ids computed from
    them, differ from the teacher's. Tokenize the same texts in the same order for it and transfer the teacher's
    logits row by row; join by example id only inside the logits cache.

    Args:
        config: The ``student`` section.
        teacher_dir: The prepared teacher.
        label_names: Labels in the data's order; the student's head has this order.
        out_dir: Replaced if it exists.
        max_length: Tokens that texts are cut to; None skips the check of the student's positions.
        texts: Training texts and others, for ``pretraining`` and ``vocabulary``; ``width`` uses the training texts.
        labels: Labels of the training texts, for ``width``.
        validation_texts: Texts on which the coverage of a trimmed vocabulary is measured.
        num_threads: Intra-op threads; None does not change them.
        use_gpu: Whether a GPU may be used; None uses one if available.
        report: Called with the progress of the pretraining.
        task: The task of student and teacher.

    Returns:
        ``family``, ``num_parameters``, ``num_layers``, ``layers`` (the teacher's; None from a checkpoint),
        ``num_attention_heads`` and ``intermediate_size`` of each layer, ``num_embeddings``, the number of distinct
        rows of the token embedding, ``parity``, the change of the logits by ``width`` and ``vocabulary``, each a step
        of :class:`StepParity` (nothing is compared if the head is new, or without training texts), and, if configured,
        ``pretraining``, the result of ``pretrain_student``, and ``vocabulary``, whose ``covered_share`` is the share of
        validation texts, 0 to 1, all of whose pieces are kept (None without such texts).

    Raises:
        ModelError: The checkpoint cannot be loaded, its family is unknown, a layer does not exist, texts may exceed
            its positions or have characters that its tokenizer does not cover, it cannot be pretrained, or more heads
            or rows are to be kept than it has.
    """
    torch.manual_seed(config.seed)
    if config.from_teacher is not None:
        source, tokenizer = load_classifier(teacher_dir)
        match_labels(source, label_names)
        has_head = True
    else:
        name = resolve_checkpoint(config.checkpoint or "")
        source, tokenizer = load_with_labels(name, label_names), load_tokenizer(name)
        has_head = has_labels(name, label_names)
    family_of(source)
    if config.checkpoint is not None:
        check_table(tokenizer, source.config, config.checkpoint)
        check_known(tokenizer, texts[0], "student.checkpoint")
    if max_length is not None:
        check_max_length(source, max_length, "student")
    parity = StepParity(
        texts[0] if has_head else [],
        max_length=max_length or TrainingConfig().max_length,
        num_threads=num_threads,
        use_gpu=use_gpu,
        task=task,
    )
    # Importance is more accurate in the whole model than in selected layers that were never trained together.
    if config.width is not None:
        parity.before(source, tokenizer)
        narrow(source, tokenizer, config.width, texts[0], labels, max_length=max_length, task=task)
        parity.after("width", source, tokenizer)
    student = _with_chosen_layers(source, config)
    more = {}
    if config.pretraining is not None:  # before trimming, since the teacher has all the pieces
        more["pretraining"] = pretrain_student(
            student,
            tokenizer,
            teacher_dir,
            [*texts[0], *texts[1]],
            config.pretraining,
            max_length=max_length or TrainingConfig().max_length,
            num_threads=num_threads,
            use_gpu=use_gpu,
            report=report,
        )
    num_embeddings = student.config.vocab_size
    if config.vocabulary is not None:
        parity.before(student, tokenizer)
        kept = _kept_pieces(tokenizer, texts, config.vocabulary)
        more["vocabulary"] = {"covered_share": covered_share(tokenizer, kept, validation_texts)}
        tokenizer, num_embeddings = _with_fewer_rows(student, tokenizer, kept, config.vocabulary)
        parity.after("vocabulary", student, tokenizer)
    with new_folder(out_dir) as folder:
        save_checkpoint(student, tokenizer, folder)
    return {
        "family": family_of(student).name,
        "num_parameters": student.num_parameters(),
        "num_layers": student.config.num_hidden_layers,
        "layers": list(config.from_teacher.layers) if config.from_teacher is not None else None,
        "num_attention_heads": num_heads(student.config),
        "intermediate_size": num_rows(student.config),
        "num_embeddings": num_embeddings,
        "parity": parity.steps,
        **more,
    }


def _with_chosen_layers(source: PreTrainedModel, config: StudentConfig) -> PreTrainedModel:
    if config.from_teacher is not None:
        return student_from_layers(source, config.from_teacher.layers)
    if config.layers is not None:
        return student_from_layers(source, config.layers, "student.layers", "the checkpoint")
    return source


def _kept_pieces(
    tokenizer: Any, texts: tuple[Sequence[str], Sequence[str]], config: VocabularyConfig
) -> list[int]:
    spelled = config.others == "spelled"
    return pieces_to_keep(
        tokenizer, *texts, min_count=config.min_count, size=config.size, others_spelled=spelled
    )


def _with_fewer_rows(
    student: PreTrainedModel, tokenizer: Any, kept: list[int], config: VocabularyConfig
) -> tuple[Any, int]:
    """Reduce the token embedding in place; return the student's tokenizer and the number of distinct rows."""
    if config.others == "nearest":
        return tokenizer, share_rows(student, kept)
    return trim_vocabulary(student, tokenizer, kept), len(kept)
