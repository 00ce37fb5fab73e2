"""The student that every trial starts from: a checkpoint, or chosen layers of the teacher."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

from ..errors import ModelError
from ..storage.folders import new_folder
from .checkpoints import (
    check_max_length,
    load_classifier,
    load_tokenizer,
    new_classifier,
    resolve_checkpoint,
    save_checkpoint,
)
from .config import StudentConfig
from .heads import load_with_labels, match_labels
from .narrowed import num_heads, num_rows
from .vocabulary import pieces_to_keep, trim_vocabulary
from .width import narrow

# Model family -> where its list of layers lies below the base model.
FAMILIES = {
    "bert": "encoder.layer",
    "distilbert": "transformer.layer",
    "roberta": "encoder.layer",
}


def build_student(
    config: StudentConfig,
    teacher_dir: Path,
    label_names: list[str],
    out_dir: Path,
    *,
    max_length: int | None = None,
    texts: tuple[Sequence[str], Sequence[str]] = ((), ()),
    labels: Sequence[int] = (),
) -> dict[str, Any]:
    """Write the student's starting checkpoint, with its tokenizer, to ``out_dir``.

    A student from a checkpoint has a tokenizer of its own, so its token ids, and the example ids made from
    them, are not the teacher's. Tokenize the same texts in the same order for it and carry the teacher's
    logits over row by row; join by example id only inside the logits cache.

    Args:
        config: The ``student`` section.
        teacher_dir: The prepared teacher.
        label_names: Labels in the data's order; the student's head has this order.
        out_dir: Replaced when it exists.
        max_length: Tokens that texts are cut to; None leaves unchecked whether the student takes as many.
        texts: Training texts and others, for ``vocabulary``; ``width`` reads the first.
        labels: Of the training texts, for ``width``.

    Returns:
        ``family``, ``num_parameters``, ``num_layers``, ``layers`` (the teacher's; None from a checkpoint),
        ``num_attention_heads`` and ``intermediate_size`` of each layer, and ``vocab_size``.

    Raises:
        ModelError: The checkpoint cannot be loaded, its family is not known, a layer does not exist, texts
            may be longer than it takes, or it is to keep more than it has.
    """
    torch.manual_seed(config.seed)
    if config.from_teacher is not None:
        source, tokenizer = load_classifier(teacher_dir)
        match_labels(source, label_names)
    else:
        name = resolve_checkpoint(config.checkpoint or "")
        source, tokenizer = load_with_labels(name, label_names), load_tokenizer(name)
    _family(source)
    if max_length is not None:
        check_max_length(source, max_length, "student")
    # The whole teacher tells better what is important than some of its layers that were never trained together.
    if config.width is not None:
        narrow(source, tokenizer, config.width, texts[0], labels, max_length=max_length)
    chosen = config.from_teacher
    student = source if chosen is None else student_from_layers(source, chosen.layers)
    if config.vocabulary is not None:
        kept = pieces_to_keep(tokenizer, *texts, **config.vocabulary.model_dump())
        tokenizer = trim_vocabulary(student, tokenizer, kept)
    with new_folder(out_dir) as folder:
        save_checkpoint(student, tokenizer, folder)
    return {
        "family": _family(student),
        "num_parameters": student.num_parameters(),
        "num_layers": student.config.num_hidden_layers,
        "layers": list(config.from_teacher.layers) if config.from_teacher is not None else None,
        "num_attention_heads": num_heads(student.config),
        "intermediate_size": num_rows(student.config),
        "vocab_size": student.config.vocab_size,
    }


def spread_layers(teacher_dir: Path, num_layers: int) -> list[int]:
    """So many of the teacher's layers, evenly spaced from its first to its last.

    Raises:
        ModelError: The teacher has fewer.
    """
    have = AutoConfig.from_pretrained(teacher_dir).num_hidden_layers
    if not 1 <= num_layers <= have:
        raise ModelError(
            f"student.num_layers: {num_layers} given; the teacher has {have} layers; accepted: 1 to {have}"
        )
    return [round(layer * (have - 1) / max(1, num_layers - 1)) for layer in range(num_layers)]


def student_from_layers(teacher: PreTrainedModel, layers: list[int]) -> PreTrainedModel:
    """A new model with the teacher's embeddings, the layers named, its pooler and its head.

    Args:
        teacher: A sequence classifier of a known family.
        layers: Teacher layers from 0, rising.

    Raises:
        ModelError: The family is not known; a layer does not exist, is named twice or out of order.
    """
    place = f"{teacher.base_model_prefix}.{FAMILIES[_family(teacher)]}"
    num_layers = teacher.config.num_hidden_layers
    if not layers or any(not 0 <= layer < num_layers for layer in layers) or layers != sorted(set(layers)):
        raise ModelError(
            f"student.from_teacher.layers: {layers} given; the teacher has layers 0 to {num_layers - 1}; "
            "name one or more of them, each once, in rising order"
        )
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(layers)
    student = new_classifier(config)
    kept = {f"{place}.{layer}.": f"{place}.{number}." for number, layer in enumerate(layers)}
    weights = {}
    for name, value in teacher.state_dict().items():
        if not name.startswith(f"{place}."):
            weights[name] = value
        for old, new in kept.items():
            if name.startswith(old):
                weights[new + name.removeprefix(old)] = value
    student.load_state_dict(weights)
    return student.eval()


def _family(model: PreTrainedModel) -> str:
    family = model.config.model_type
    if family not in FAMILIES:
        raise ModelError(f"student: its family is {family!r}; supported: {', '.join(FAMILIES)}")
    return family
