"""Check that a text of the job's length fits in one forward pass, by the given bound and by this machine's memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ....errors import ConfigError
from ...specification.config import JobConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ....training.checkpoints.once import Checkpoints
    from ....training.models.passes import PassShape
    from ....training.teacher.config import OneTeacher

logger = logging.getLogger(__name__)

_LONG = 512  # tokens; shorter texts fit on any machine
# The default of transformers; a configuration has no attention implementation before its model is built.
_ATTENTION = "sdpa"
_STEP = 64  # tokens; a length that fits is rounded down to a multiple of this


def check_given_tokens(config: JobConfig) -> None:
    """Reject a bound on passes that is below the length of a text.

    Raises:
        ConfigError: ``training.max_batch_tokens`` is below ``training.max_length``, where both are numbers.
    """
    most, length = config.training.batch_tokens, config.training.max_length
    if most is not None and isinstance(length, int) and most < length:
        raise ConfigError(
            f"training.max_batch_tokens: {most} given, but texts have up to {length} tokens (training.max_length), and "
            f"each must fit in one pass; set it to {length} or more, or training.max_length to {most} or less"
        )


def check_memory(config: JobConfig, checkpoints: Checkpoints) -> None:
    """Warn if one text of the job's length alone exceeds the memory of this machine, where the job runs here on CPUs.

    Args:
        config: The specification with paths of this machine, and a number for ``training.max_length``.
        checkpoints: Checkpoints that were read before.
    """
    import torch

    from ....training.machine import num_usable_cores
    from ....training.models.passes import bytes_of_passes

    length, resources = config.training.num_tokens, config.resources
    if length <= _LONG or resources.address is not None or torch.cuda.is_available():
        return
    cores = num_usable_cores() if resources.num_cpus is None else resources.num_cpus
    teacher = cores if resources.teacher is None else resources.teacher.cpu
    threads = {"teacher": teacher, "student": resources.trial.cpu, "graph": cores}
    for model, action, shape in _passes(config, checkpoints):
        free = bytes_of_passes(torch.device("cpu"), int(max(1, threads[model])))
        needed = shape.text_bytes(length)
        if needed > free:
            logger.warning(
                "training.max_length: %d tokens need about %s MiB when %s one such text, but half of the memory that "
                "is free for its CPUs is %s MiB; set it to %d or less, or run where more is free",
                length,
                f"{needed / 2**20:,.0f}",
                action,
                f"{free / 2**20:,.0f}",
                _fitting_length(shape, length, free),
            )
            return


def _passes(config: JobConfig, checkpoints: Checkpoints) -> Iterator[tuple[str, str, PassShape]]:
    """Yield each kind of forward pass: its model (``teacher``, ``student`` or ``graph``), in words, and its sizes."""
    from ....search.space.students import student_sections
    from ....training.models.passes import PassShape

    shapes = [_shapes_of(each, checkpoints) for each in config.teacher.members]
    for member, own in zip(config.teacher.members, shapes, strict=True):
        if member.is_trained:
            shape = PassShape.of(own, is_trained=True, attention=_ATTENTION)
            yield "teacher", "the teacher is trained on", shape
    for student, searched in student_sections(config.student, config.search.space):
        if not student.has_layers:
            # Its graph holds less than its training.
            own, *_ = student.model_configs(shapes[0], searched)
            yield "student", "the student is trained on", PassShape.of(own, is_trained=True)
        else:
            own, layers = student.check_shapes(shapes[0], {}), getattr(student, "layers", None)
            shape = PassShape.of(own, is_trained=True, attention=_ATTENTION)
            shape = shape if layers is None else replace(shape, num_held=len(layers))
            yield "student", "the student is trained on", shape
            # ONNX Runtime holds the scores of all heads.
            run = PassShape.of(own, is_trained=False, attention="eager")
            yield "graph", "the student's graph runs on", run


def _shapes_of(teacher: OneTeacher, checkpoints: Checkpoints) -> PreTrainedConfig:
    """Return the configuration of a teacher's model, or of the checkpoint that it is fine-tuned from."""
    from ....training.checkpoints.load import load_config
    from ....training.teacher.config import ScratchConfig
    from ....training.teacher.from_scratch import scratch_shapes

    tuned = teacher.fine_tune
    name = teacher.checkpoint if tuned is None else tuned.checkpoint
    if name is None:
        return scratch_shapes(teacher.scratch or ScratchConfig())
    return load_config(checkpoints.directory(name, tuned.sha256 if tuned else None))


def _fitting_length(shape: PassShape, length: int, num_bytes: int) -> int:
    """Return the longest text that fits in ``num_bytes``, in tokens and as a multiple of 64."""
    lengths = range(_STEP, length, _STEP)
    return max((each for each in lengths if shape.text_bytes(each) <= num_bytes), default=_STEP)
