"""Hard targets: the task's loss against the labels, weighted by alpha."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from ...section import ShareBelowOne
from .base import LOSS_TERMS, LossInputs, LossTerm, Need

if TYPE_CHECKING:
    from torch import Tensor


@LOSS_TERMS.register
class HardTargets(LossTerm):
    """Add alpha · CE(z_s, y); logged even if alpha is 0."""

    label_smoothing: ShareBelowOne = 0.0

    name: ClassVar[str] = "cross_entropy"
    needs: ClassVar[frozenset[Need]] = frozenset({"labels"})
    argument: ClassVar[str | None] = "alpha"
    always_logged: ClassVar[bool] = True

    @classmethod
    def of_arguments(cls, args: Any) -> Self:
        """Build the term from the arguments."""
        return cls.model_construct(weight=args.alpha, label_smoothing=args.label_smoothing_factor)

    def value(self, inputs: LossInputs) -> Tensor:
        """Return the cross-entropy; its divisor counts unlabelled rows, so a row's weight is independent of others."""
        assert inputs.labels is not None
        weights = inputs.label_weights
        if weights is None:
            return inputs.task.hard_loss(
                inputs.logits, inputs.labels, num_items=inputs.num_items, label_smoothing=self.label_smoothing
            )
        return inputs.task.hard_loss(
            inputs.logits,
            inputs.labels,
            num_items=weights.total,
            label_smoothing=self.label_smoothing,
            class_weights=weights.by_class,
        )
