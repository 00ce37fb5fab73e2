"""Determine how many trials share a GPU: estimate memory, measure a step, then set the fraction."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import RunFailedError

if TYPE_CHECKING:
    from .inputs import TrialInputs, TrialSettings

logger = logging.getLogger(__name__)

_CONTEXT_BYTES = 600 * 2**20  # used by CUDA and its libraries in each process
_USABLE = 0.92  # of a GPU's memory: the rest is lost to fragmentation


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
        teacher_parameters: Parameters of a teacher that runs beside the student for its hidden states; 0 without one.
        columns: Columns that a student without layers keeps for each token; 0 for one with layers.
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

    The sum of: weights, gradients and Adam's two moments in 32 bits, 16 bytes per parameter, and 2 more for the copy
    in 16 bits; for a teacher, which is not trained, only the weights and that copy;
    activations of a layer, ``s b h (34 + 5 a s / h)`` bytes in 16 bits (Korthikanti et al., "Reducing Activation
    Recomputation in Large Transformer Models", 2022, equation 1), or the columns of a model without layers in 32 bits;
    embeddings and logits; CUDA itself.

    Args:
        shape: Sizes of the training step.
    """
    s, b, h, a = shape.length, shape.batch_size, shape.hidden_size, shape.num_heads
    layer = s * b * h * (34 + 5 * a * s / h)
    ends = 6 * s * b * h + 12 * b * shape.num_labels
    weights = 18 * shape.num_parameters + 6 * shape.teacher_parameters
    return _CONTEXT_BYTES + int(weights + shape.num_layers * layer + 4 * s * b * shape.columns + ends)


def shape_of(model: Any, batch_size: int, length: int, teacher_parameters: int = 0) -> Shape:
    """Return the sizes of a classifier's training step.

    Args:
        model: The student.
        batch_size: Texts per step.
        length: Tokens of the longest text.
        teacher_parameters: Parameters of a teacher that runs beside it; 0 without one.
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
        columns=0 if has_layers else model.encoder.num_kept,
    )


def settled_fraction(requested: float, num_bytes: int, total_bytes: int) -> float:
    """Return the fraction of a GPU for a trial: as requested, or more where that many trials would not fit.

    Args:
        requested: Requested GPUs per trial, above 0 and below 1.
        num_bytes: Memory of one trial, as measured.
        total_bytes: Memory of the GPU.

    Raises:
        RunFailedError: Not even one trial fits.
    """
    fitting = int(_USABLE * total_bytes / num_bytes)
    needs = f"a trial needs {num_bytes / 2**20:,.0f} MiB of a GPU's {total_bytes / 2**20:,.0f} MiB"
    if fitting < 1:
        raise RunFailedError(
            f"{needs}; lower training.batch_size or training.max_length, or choose a smaller student"
        )
    wanted = math.floor(1 / requested + 1e-6)
    if wanted <= fitting:
        return requested
    settled = math.floor(1e4 / fitting) / 1e4  # Ray counts in ten-thousandths
    logger.warning(
        "%s: %d trials share a GPU instead of %d, as resources.trial.gpu %g requests",
        needs,
        fitting,
        wanted,
        requested,
    )
    return settled


def fit_gpu(requested: float, inputs: TrialInputs, settings: TrialSettings, batch_size: int) -> float:
    """Return the fraction of a GPU for a trial, from the memory of every student, measured on a GPU of the cluster.

    Args:
        requested: Requested GPUs per trial, above 0 and below 1.
        inputs: The texts and students.
        settings: Settings that all trials share.
        batch_size: Largest batch size of the space.

    Raises:
        RunFailedError: Not even one trial fits.
    """
    import ray

    if ray.cluster_resources().get("GPU", 0) < 1:
        logger.warning("there is no GPU yet: it is not measured whether %g trials fit on one", 1 / requested)
        return requested
    probe = ray.remote(num_gpus=1, num_cpus=1, max_retries=0)(measure_step)
    fraction = requested
    for student in inputs.students.values():
        found = ray.get(probe.remote(student.key, inputs, settings, batch_size))
        if found is None:
            logger.warning(
                "CUDA is not available on a node with a GPU: the memory of a trial is not measured"
            )
            return requested
        estimated, measured, total = found
        if measured is None:
            raise RunFailedError(
                f"a training step of {batch_size} texts does not fit on a GPU of {total / 2**20:,.0f} MiB "
                f"(estimated: {estimated / 2**20:,.0f} MiB); lower training.batch_size or training.max_length, or "
                "choose a smaller student"
            )
        logger.info("a trial needs %.0f MiB of a GPU (estimated: %.0f)", measured / 2**20, estimated / 2**20)
        fraction = max(fraction, settled_fraction(requested, measured, total))
    return fraction


def measure_step(
    student: str, inputs: TrialInputs, settings: TrialSettings, batch_size: int
) -> tuple[int, int | None, int] | None:
    """Measure memory on a GPU, in bytes: (estimate of a step, peak of two steps and an evaluation, GPU's total).

    The batches have the longest texts. The peak is None if the GPU ran out of memory; returns None without CUDA.
    """
    import numpy as np
    import torch

    from ...training import tasks
    from ...training.checkpoints.load import load_model
    from ...training.compression.quantization_aware import FakeQuantized

    if not torch.cuda.is_available():
        return None

    def load(key: str) -> Any:
        return load_model(settings.store.fetch(key), task=tasks.get(inputs.task))

    model, teacher = load(student).train(), None if inputs.teacher is None else load(inputs.teacher).eval()
    if settings.training.quantization_aware is not None:
        FakeQuantized(model, settings.training.quantization_aware)
    total = torch.cuda.get_device_properties(0).total_memory
    texts = [inputs, *inputs.respelled.values()]
    length = max(int(np.max(split.tokens.lengths)) for each in texts for split in each.train.values())
    ids = torch.randint(5, 100, (batch_size, length), device="cuda")
    shape = shape_of(model, batch_size, length, 0 if teacher is None else teacher.num_parameters())
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    longest = max(int(np.max(each.validation.lengths)) for each in texts)
    evaluated = torch.randint(5, 100, (settings.training.eval_batch_size, longest), device="cuda")
    try:
        for each in filter(None, (model, teacher)):
            each.cuda()
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        for _ in range(2):
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = model(**batch).logits.float().logsumexp(-1).mean()
                if teacher is not None:
                    with torch.no_grad():
                        teacher(**batch, output_hidden_states=True)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.inference_mode():
            model.eval()(evaluated)
    except torch.cuda.OutOfMemoryError:
        return estimated_bytes(shape), None, total
    return estimated_bytes(shape), torch.cuda.max_memory_reserved() + _CONTEXT_BYTES, total
