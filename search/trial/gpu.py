"""Measure trials of a search on a GPU: the memory of their steps, and the throughput of parallel trials."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from ...storage.temporary import temporary_directory
from ...training.data.sampling import LengthSortedSampler
from ...training.data.tokenized import TokenizedSplit
from ...training.models.inference import KeptBatches
from .device import own_device
from .packing import CONTEXT_BYTES, GpuMemory

if TYPE_CHECKING:
    from .inputs import TrialInputs, TrialSettings

_NUM_STEPS = 3  # the optimizer's moments exist after the first step, fragmentation shows after the second
_SECONDS = 8.0
_MEET_WITHIN_S = 120.0
_ENDLESS = 10**9  # steps


@dataclass(frozen=True)
class Shape:
    """Sizes that determine how much memory a training step needs.

    Attributes:
        num_parameters: Parameters of the student.
        num_layers: Layers of the student.
        hidden_size: Hidden size of the student.
        num_heads: Attention heads.
        batch_size: Texts per step.
        length: Tokens of the longest text.
        num_labels: Columns of the logits.
        teacher_parameters: Parameters of a teacher that runs with the student for its hidden states; 0 without one.
        columns: Columns that a student without layers keeps for each token; 0 for a student with layers.
    """

    num_parameters: int
    num_layers: int
    hidden_size: int
    num_heads: int
    batch_size: int
    length: int
    num_labels: int
    teacher_parameters: int = 0
    columns: int = 0


def estimated_bytes(shape: Shape) -> int:
    """Estimate the memory of one training process on a GPU, in bytes.

    It is the sum of: weights, gradients and Adam's two moments in 32 bits (16 bytes per parameter), and 2 bytes more
    for the copy in 16 bits; for a teacher, which is not trained, only the weights and that copy; activations of a
    layer, ``s b h (34 + 5 a s / h)`` bytes in 16 bits (Korthikanti et al., "Reducing Activation Recomputation in Large
    Transformer Models", 2022, equation 1), or the columns of a model without layers in 32 bits; embeddings and logits;
    CUDA itself.

    Args:
        shape: Sizes of the training step.
    """
    s, b, h, a = shape.length, shape.batch_size, shape.hidden_size, shape.num_heads
    layer = s * b * h * (34 + 5 * a * s / h)
    ends = 6 * s * b * h + 12 * b * shape.num_labels
    weights = 18 * shape.num_parameters + 6 * shape.teacher_parameters
    return CONTEXT_BYTES + int(weights + shape.num_layers * layer + 4 * s * b * shape.columns + ends)


def shape_of(model: Any, batch_size: int, length: int, teacher_parameters: int = 0) -> Shape:
    """Return the sizes of a classifier's training step.

    Args:
        model: The student.
        batch_size: Texts per step.
        length: Tokens of the longest text.
        teacher_parameters: Parameters of a teacher that runs with the student; 0 without one.
    """
    from ...training.models.attention_free import AttentionFreeClassifier
    from ...training.models.structured_pruning import num_heads

    config, has_layers = model.config, not isinstance(model, AttentionFreeClassifier)
    return Shape(
        num_parameters=model.num_parameters(),
        num_layers=config.num_hidden_layers if has_layers else 0,
        hidden_size=config.hidden_size,
        num_heads=num_heads(config) if has_layers else 0,
        batch_size=batch_size,
        length=length,
        num_labels=config.num_labels,
        teacher_parameters=teacher_parameters,
        columns=0 if has_layers else config.columns_of_token,
    )


def measure_memory(arguments: Mapping[str, Any], inputs: TrialInputs, settings: TrialSettings) -> GpuMemory:
    """Train some steps of a trial on its longest texts, evaluate it, and return the memory that it used on the GPU."""
    with own_device(use_gpu=True, mps=settings.mps), temporary_directory("probe") as work:
        (free, total), estimated = torch.cuda.mem_get_info(), 0
        try:
            trainer = _trainer(arguments, inputs, settings, work)
            lengths, teacher = trainer.train_dataset.lengths, trainer.teacher_model
            teacher_parameters = 0 if teacher is None else teacher.num_parameters()
            longest = int(lengths.max())
            num_texts = min(trainer.args.train_batch_size, trainer.pass_limit(is_trained=True).rows(longest))
            shape = shape_of(trainer.model, num_texts, longest, teacher_parameters)
            estimated = estimated_bytes(shape)
            trainer._get_train_sampler = lambda *_: LengthSortedSampler(lengths)
            trainer.add_callback(StepTimes(num_steps=_NUM_STEPS))
            trainer.train()
            _evaluate(trainer, inputs.of(arguments).validation)
        except torch.cuda.OutOfMemoryError:
            return GpuMemory(None, free, total, estimated)
        return GpuMemory(torch.cuda.max_memory_reserved() + CONTEXT_BYTES, free, total, estimated)


def measure_steps(
    arguments: Mapping[str, Any], inputs: TrialInputs, settings: TrialSettings, meeting: Any = None
) -> list[float]:
    """Train a trial for some seconds, and return the end time of each step, as ``StepTimes.moments``.

    Args:
        arguments: The trial's arguments.
        inputs: The texts and students.
        settings: Settings that all trials share.
        meeting: An actor ``Meeting``, where it waits for the trials that train at the same time; None: there are none.
    """
    times = StepTimes(seconds=_SECONDS)
    with own_device(use_gpu=settings.use_gpu, mps=settings.mps), temporary_directory("probe") as work:
        trainer = _trainer(arguments, inputs, settings, work)
        trainer.args.max_steps = _ENDLESS  # however short the trial is, it is stopped by its time
        trainer.add_callback(times)
        _meet(meeting)
        trainer.train()
    return times.moments


def _meet(meeting: Any) -> None:
    if meeting is None:
        return
    import ray
    from ray.exceptions import GetTimeoutError

    with suppress(GetTimeoutError):  # one of them cannot start: their rate together is then 0
        ray.get(meeting.arrive.remote(), timeout=_MEET_WITHIN_S)


def _trainer(arguments: Mapping[str, Any], inputs: TrialInputs, settings: TrialSettings, work: Path) -> Any:
    """Create the trainer of a trial with these arguments, except that it saves no checkpoints."""
    from transformers.trainer_utils import SaveStrategy

    from .run import make_trainer

    trainer = make_trainer(dict(arguments), inputs.of(arguments), settings, work)
    trainer.args.save_strategy = SaveStrategy.NO
    return trainer


def _evaluate(trainer: Any, split: TokenizedSplit) -> None:
    """Evaluate the whole split as a trial does, whose batches and logits stay on the GPU."""
    args, pad = trainer.args, trainer.data_collator.pad_token_id
    KeptBatches(split, args.per_device_eval_batch_size, pad, args.max_batch_tokens).logits(trainer.model)


class StepTimes(TrainerCallback):
    """Record when steps end, and stop a training after some of them.

    Args:
        num_steps: Minimum number of steps.
        seconds: Minimum time in seconds.
    """

    def __init__(self, num_steps: int = 1, seconds: float = 0.0) -> None:
        self._num_steps, self._seconds = num_steps, seconds
        self.moments: list[float] = []
        """End of each step, in seconds since the epoch, a clock that the processes of a node share."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait for the device, record the time, and stop once both minimums are reached."""
        if args.device.type == "cuda":
            torch.cuda.synchronize()
        self.moments.append(time.time())
        is_long_enough = self.moments[-1] - self.moments[0] >= self._seconds
        control.should_training_stop = is_long_enough and len(self.moments) >= self._num_steps
