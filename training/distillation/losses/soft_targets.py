"""The soft targets: KL divergence from the teacher's distribution, weighted by 1 - alpha."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from ...section import Temperature
from .base import LOSS_TERMS, LossInputs, LossTerm, Need

if TYPE_CHECKING:
    from torch import Tensor


@LOSS_TERMS.register
class SoftTargets(LossTerm):
    """(1 - alpha) · T² · KL(softmax(z_t/T) ‖ softmax(z_s/T))."""

    temperature: Temperature = 4.0

    name: ClassVar[str] = "distillation"
    needs: ClassVar[frozenset[Need]] = frozenset({"teacher_logits"})
    argument: ClassVar[str | None] = "alpha"
    off: ClassVar[float] = 1

    @classmethod
    def of_arguments(cls, args: Any) -> Self:
        """Return the term as the arguments configure it."""
        return cls.model_construct(weight=1 - args.alpha, temperature=args.temperature)

    def value(self, inputs: LossInputs) -> Tensor:
        """Return the soft-target loss.

        Raises:
            ValueError: The logits of student and teacher differ in shape.
        """
        own, teacher_logits = inputs.logits, inputs.teacher_logits
        assert teacher_logits is not None
        if teacher_logits.shape != own.shape:
            raise ValueError(
                f"teacher_logits have shape {tuple(teacher_logits.shape)}, "
                f"the student's {tuple(own.shape)}: both need the same examples and labels"
            )
        return soft_target_loss(own, teacher_logits, temperature=self.temperature, num_items=inputs.num_items)


def soft_target_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float,
    num_items: Tensor | int | None = None,
) -> Tensor:
    """Return T² · KL(softmax(z_t/T) ‖ softmax(z_s/T)) of logits[B, C] in float32, the KL averaged over the batch.

    Hinton, Vinyals and Dean 2015 (arXiv 1503.02531), section 2: the factor T² keeps the gradient's size
    independent of the temperature. No gradient flows into ``teacher_logits``.

    ``num_items``: divisor of the sum over rows; by default their number.
    """
    from torch.nn import functional

    student = functional.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher = functional.log_softmax(teacher_logits.detach().float() / temperature, dim=-1)
    total = functional.kl_div(student, teacher, reduction="sum", log_target=True)
    return total * (temperature**2 / (len(student_logits) if num_items is None else num_items))
