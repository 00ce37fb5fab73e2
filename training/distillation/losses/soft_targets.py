"""Soft targets: KL divergence from the teacher's distribution, weighted by 1 - alpha."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from ...section import Temperature
from .base import LOSS_TERMS, LossInputs, LossTerm, Need

if TYPE_CHECKING:
    from torch import Tensor


def with_own_for_missing(teacher_logits: Tensor, own: Tensor) -> Tensor:
    """Return the teacher's logits [B, ...], NaN replaced by the student's, so that those texts add no loss."""
    return teacher_logits.where(~teacher_logits.isnan(), own.detach())


@LOSS_TERMS.register
class SoftTargets(LossTerm):
    """Add (1 - alpha) · T² · KL(softmax(z_t/T) ‖ softmax(z_s/T))."""

    temperature: Temperature = 4.0

    name: ClassVar[str] = "distillation"
    needs: ClassVar[frozenset[Need]] = frozenset({"teacher_logits"})
    argument: ClassVar[str | None] = "alpha"
    off: ClassVar[float] = 1

    @classmethod
    def of_arguments(cls, args: Any) -> Self:
        """Build the term from the arguments."""
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
        return inputs.task.soft_loss(
            own,
            with_own_for_missing(teacher_logits, own),
            temperature=self.temperature,
            num_items=inputs.num_items,
        )
