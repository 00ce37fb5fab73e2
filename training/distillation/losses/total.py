"""The loss as the weighted sum of its terms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .base import LossInputs, LossTerm
from .hard_targets import HardTargets
from .soft_targets import SoftTargets

if TYPE_CHECKING:
    from torch import Tensor


def weighted_sum(terms: Iterable[LossTerm], inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the scalar loss, and the detached, unweighted values of its terms by name.

    Terms without weight are skipped, or computed without gradient if they are always logged.

    Raises:
        ValueError: A term that has weight lacks an input, or the inputs are inconsistent.
    """
    import torch

    loss: Tensor | None = None
    values: dict[str, Tensor] = {}
    for term in terms:
        missing = inputs.missing(term.needs)
        if term.weight == 0:
            if term.always_logged and not missing:
                with torch.no_grad():
                    values[term.name] = term.value(inputs)
            continue
        if missing:
            raise ValueError(f"{term.name} has weight {term.weight:g} and requires {', '.join(missing)}")
        value = term.value(inputs)
        loss = term.weight * value if loss is None else loss + term.weight * value
        values[term.name] = value.detach()
    if loss is None:
        raise ValueError("no loss term has a weight above 0")
    return loss, values


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    labels: Tensor | None,
    *,
    alpha: float,
    temperature: float,
    num_items: Tensor | int | None = None,
) -> Tensor:
    """Return alpha · CE(z_s, y) + (1 - alpha) · T² · KL(softmax(z_t/T) ‖ softmax(z_s/T)), a scalar in float32.

    Args:
        student_logits: z_s[B, C].
        teacher_logits: z_t[B, C]; may be None where alpha is 1.
        labels: y[B], -100 for a row without a label; may be None where alpha is 0.
        alpha: Weight of cross-entropy, 0 to 1.
        temperature: T, above 0.
        num_items: Divisor of both sums over rows; default B.

    Raises:
        ValueError: A term that has weight lacks its input, or the two logits differ in shape.
    """
    terms = (
        HardTargets.model_construct(weight=alpha, label_smoothing=0.0),
        SoftTargets.model_construct(weight=1 - alpha, temperature=temperature),
    )
    divisor = len(student_logits) if num_items is None else num_items
    return weighted_sum(terms, LossInputs(student_logits, divisor, labels, teacher_logits))[0]
