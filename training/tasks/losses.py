"""Losses of tasks, as pure functions of logits; computed in float32.

Shapes: B examples, C classes, labels or numbers. ``num_items`` is the divisor of a sum over examples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    num_items: Tensor | int | None = None,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    possible: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy of logits[B, C] and labels[B]; rows labelled -100 are ignored.

    Args:
        logits: [B, C].
        labels: [B].
        num_items: Divisor of the sum over rows; by default the number of labelled rows, or with ``class_weights`` the
            sum of their weights, as ``torch.nn.CrossEntropyLoss`` divides.
        label_smoothing: Weight of the uniform distribution, 0 to 1.
        class_weights: [C], weight of a row by its label.
        possible: bool[B, C], the classes of each row that the uniform distribution covers; by default all. Not
            together with ``class_weights``.
    """
    from torch.nn import functional

    from ..data.tokenized import IGNORED_LABEL

    total = functional.cross_entropy(
        logits.float(),
        labels.long(),
        ignore_index=IGNORED_LABEL,
        reduction="sum",
        label_smoothing=label_smoothing if possible is None else 0.0,
        weight=class_weights,
    )
    if possible is not None and label_smoothing:
        logs = functional.log_softmax(logits.float(), dim=-1).where(possible, 0)
        uniform = -logs.sum(dim=-1) / possible.sum(dim=-1).clamp(min=1)
        spread = uniform.where(labels != IGNORED_LABEL, 0).sum()
        total = (1 - label_smoothing) * total + label_smoothing * spread
    if num_items is None:
        labelled = labels != IGNORED_LABEL
        if class_weights is None:
            num_items = labelled.sum().clamp(min=1)
        else:
            weights = class_weights[labels.long().where(labelled, 0)].where(labelled, 0)
            num_items = weights.sum().where(labelled.any(), 1)
    return total / num_items


def soft_target_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float,
    num_items: Tensor | int | None = None,
) -> Tensor:
    """Return T² · KL(softmax(z_t/T) ‖ softmax(z_s/T)) of logits[B, C], the KL averaged over the batch.

    Hinton, Vinyals and Dean 2015 (arXiv 1503.02531), section 2: the factor T² keeps the gradient's size
    independent of the temperature. No gradient flows into ``teacher_logits``.

    ``num_items``: divisor of the sum over rows; by default their number.
    """
    from torch.nn import functional

    student = functional.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher = functional.log_softmax(teacher_logits.detach().float() / temperature, dim=-1)
    total = functional.kl_div(student, teacher, reduction="sum", log_target=True)
    return total * (temperature**2 / (len(student_logits) if num_items is None else num_items))


def binary_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    num_items: Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross-entropy of sigmoid(logits[B, C]) and labels[B, C] of 0 and 1, averaged over the labels.

    Args:
        logits: [B, C].
        labels: [B, C]; rows of -100 are ignored.
        num_items: Divisor of the sum over rows; by default the number of labelled rows.
        label_smoothing: Weight of the uniform distribution, 0 to 1: a label of 1 becomes 1 - s/2, one of 0 becomes s/2.
    """
    from torch.nn import functional

    from ..data.tokenized import IGNORED_LABEL

    labelled = labels[:, 0] != IGNORED_LABEL
    targets = labels.float() * (1 - label_smoothing) + label_smoothing / 2
    losses = functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none").mean(
        dim=1
    )
    total = losses.where(labelled, 0).sum()
    return total / (labelled.sum().clamp(min=1) if num_items is None else num_items)


def soft_label_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float,
    num_items: Tensor | int | None = None,
) -> Tensor:
    """Return T² · KL(Bernoulli(sigmoid(z_t/T)) ‖ Bernoulli(sigmoid(z_s/T))) of logits[B, C], averaged over the labels.

    ``soft_target_loss`` for labels that do not exclude one another. No gradient flows into ``teacher_logits``.

    ``num_items``: divisor of the sum over rows; by default their number.
    """
    from torch.nn import functional

    student = student_logits.float() / temperature
    teacher = teacher_logits.detach().float() / temperature
    is_one = teacher.sigmoid() * (functional.logsigmoid(teacher) - functional.logsigmoid(student))
    is_zero = (-teacher).sigmoid() * (functional.logsigmoid(-teacher) - functional.logsigmoid(-student))
    total = (is_one + is_zero).mean(dim=1).sum()
    return total * (temperature**2 / (len(student_logits) if num_items is None else num_items))


def squared_error(outputs: Tensor, targets: Tensor, *, num_items: Tensor | int | None = None) -> Tensor:
    """Return the squared error of outputs[B, K] and targets[B, K], averaged over the numbers.

    Rows whose targets are NaN are ignored. No gradient flows into ``targets``.

    ``num_items``: divisor of the sum over rows; by default the number of those with targets.
    """
    targets = targets.detach().float()
    labelled = ~targets.isnan().any(dim=1)
    errors = (outputs.float() - targets.where(labelled[:, None], 0)).square().mean(dim=1)
    total = errors.where(labelled, 0).sum()
    return total / (labelled.sum().clamp(min=1) if num_items is None else num_items)
