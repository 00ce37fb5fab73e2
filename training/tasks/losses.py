"""Losses shared by tasks, as pure functions of logits over classes; computed in float32.

Shapes: B examples, C classes. ``num_items`` is the divisor of a sum over examples.
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
) -> Tensor:
    """Return the cross-entropy of logits[B, C] and labels[B]; rows labelled -100 are ignored.

    Args:
        logits: [B, C].
        labels: [B].
        num_items: Divisor of the sum over rows; by default the number of labelled rows, or with ``class_weights`` the
            sum of their weights, as ``torch.nn.CrossEntropyLoss`` divides.
        label_smoothing: Weight of the uniform distribution, 0 to 1.
        class_weights: [C], weight of a row by its label.
    """
    from torch.nn import functional

    from ..data.tokenized import IGNORED_LABEL

    total = functional.cross_entropy(
        logits.float(),
        labels.long(),
        ignore_index=IGNORED_LABEL,
        reduction="sum",
        label_smoothing=label_smoothing,
        weight=class_weights,
    )
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
