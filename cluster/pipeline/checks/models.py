"""Check that a job's checkpoints, students and variants exist and fit each other, before its texts are read."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ....errors import ConfigError
from ...specification.config import JobConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ....training.checkpoints.once import Checkpoints
    from ....training.student.config import StudentConfig
    from ....training.teacher.config import OneTeacher

logger = logging.getLogger(__name__)


def check_models(config: JobConfig, checkpoints: Checkpoints | None = None) -> None:
    """Reject missing or incomplete checkpoints, and a student that cannot be made.

    The headers of the weight files reveal requested layers, word pieces, heads and feed-forward rows that do not exist.

    Args:
        config: The specification with paths of this machine.
        checkpoints: Checkpoints that were read before, if any.

    Raises:
        ModelError: A checkpoint cannot be used; the message has its key and what is available.
        ConfigError: A student, a variant or the opset cannot be used; the message has the key and the remedy.
    """
    from ....export.onnx.opset import check_opset
    from ....search.space.students import student_sections
    from ....training import tasks
    from ....training.checkpoints.inspection import inspect_checkpoint
    from ....training.checkpoints.loading import naming
    from ....training.checkpoints.once import Checkpoints
    from ....training.distillation.config import AUTO

    check_opset(config.export.opset)
    task, checkpoints = tasks.get(config.task), checkpoints or Checkpoints()
    # The number for `auto` is not known yet; it is checked when it is chosen.
    length = None if config.training.max_length == AUTO else config.training.num_tokens
    teachers = [
        _planned_teacher(".".join(path), each, checkpoints) for path, each in config.teacher.sections()
    ]
    _, checkpoint, teacher = teachers[0]
    sections = student_sections(config.student, config.search.space)
    if config.teacher.first.logits is not None:
        _check_without_model(config, [student for student, _ in sections])
    students: list[tuple[StudentConfig, list[PreTrainedConfig]]] = []
    for student, searched in sections:
        source = student.check_shapes(teacher, searched)
        students.append((student, student.model_configs(source, searched)))
        if config.training.pruning is not None:
            student.check_pruning(source)
    for key, name, _ in teachers:
        if name is None:
            continue
        with naming(key):
            inspect_checkpoint(
                name,
                complete="fine_tune" not in key,
                task=task,
                max_length=length,
                tokenizer_of=checkpoints.tokenizer,
            )
    for student, _ in sections:
        student.check_checkpoints(checkpoint, task, length)
    _check_variants(config, students)
    _warn_of_other_bits(config)


def _planned_teacher(
    path: str, config: OneTeacher, checkpoints: Checkpoints
) -> tuple[str, str | None, PreTrainedConfig]:
    """Return the key of a teacher's checkpoint, its resolved name or None, and its model's configuration.

    Args:
        path: Path of the teacher's section.
        config: The section.
        checkpoints: Checkpoints that were read before.
    """
    from ....training.checkpoints.load import load_config
    from ....training.checkpoints.loading import naming
    from ....training.teacher.config import ScratchConfig
    from ....training.teacher.from_scratch import scratch_shapes

    # A file of logits has no shapes, and no student reads them; the default ones stand in.
    if config.scratch is not None or config.logits is not None:
        return f"{path}.scratch", None, scratch_shapes(config.scratch or ScratchConfig())
    tuned = config.fine_tune
    name = tuned.checkpoint if tuned else config.checkpoint
    assert name is not None, "one of scratch, fine_tune and checkpoint is set"
    key = f"{path}.fine_tune.checkpoint" if tuned else f"{path}.checkpoint"
    with naming(key):
        checkpoint = checkpoints.directory(name, tuned.sha256 if tuned else None)
        return key, checkpoint, load_config(checkpoint)


def _check_without_model(config: JobConfig, students: list[StudentConfig]) -> None:
    """Reject settings that need a teacher that can be run, for a job whose teacher is a file of logits.

    Raises:
        ConfigError: The message has the key and the remedy.
    """
    from ....search.space.space import may_have_weight
    from ....training.distillation.losses.base import LOSS_TERMS, NEED_TEACHER_MODEL

    for student in students:
        reason = student.why_teacher_model()
        if reason is not None:
            raise ConfigError(f"{reason}, but teacher.logits is a file, which has no weights")
    for term in LOSS_TERMS:
        if term.needs & NEED_TEACHER_MODEL and may_have_weight(term, config.search, config.training):
            raise ConfigError(
                f"{term.path()}: it compares hidden states with the teacher's, but teacher.logits is a file, which "
                "has none; remove it, or use teacher.checkpoint"
            )


def _check_variants(config: JobConfig, students: list[tuple[StudentConfig, list[PreTrainedConfig]]]) -> None:
    """Reject variants that no student can have, and a student that cannot be sealed as any of the variants.

    Where some student is made of layers, variants that none can have are only warned of: the default ones contain some
    that a family cannot have.

    Args:
        config: The specification.
        students: The section of each kind of student, with the configurations of its models.
    """
    from ....export.config import ExportConfig
    from ....export.variants import kinds

    names = config.export.variants
    by_model = [
        (section.kind, kinds.inapplicable(names, each.to_dict()))
        for section, models in students
        for each in models
    ]
    unfit = [name for name in names if all(name in reasons for _, reasons in by_model)]
    if unfit:
        why = dict.fromkeys(reasons[name] for name in unfit for _, reasons in by_model)
        message = f"export.variants: {', '.join(unfit)} given, but {'; '.join(why)}"
        if not any(section.has_layers for section, _ in students):
            raise ConfigError(f"{message}; {kinds.get(unfit[0]).remedy()}")
        if any(name not in ExportConfig().variants for name in unfit):
            logger.warning("%s; not exported", message)
    for kind, reasons in by_model:
        if not any(kinds.get(name).can_be_sealed for name in names if name not in reasons):
            raise ConfigError(
                f"export.variants: {', '.join(names)} given, as none of which a student of kind {kind} can be sealed "
                f"({'; '.join(dict.fromkeys(reasons.values()))}); add {kinds.plain.PLAIN.name}"
            )


def _warn_of_other_bits(config: JobConfig) -> None:
    """Warn if quantization-aware training uses other weight bits than the exported graphs will have."""
    aware = config.training.quantization_aware
    if aware is None or aware.weight_bits == 7:
        return
    from ....export.variants.dynamic import int8_products_saturate

    if int8_products_saturate():
        logger.warning(
            "training.quantization_aware.weight_bits: %d, but this is an x86 processor without VNNI, where ONNX "
            "variants with 8-bit products hold weights in 7 bits; set it to 7, unless they are built on another "
            "machine",
            aware.weight_bits,
        )
