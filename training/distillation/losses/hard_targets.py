"""The hard targets: cross-entropy with the labels, weighted by alpha."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from ...section import ShareBelowOne
from .base import LOSS_TERMS, LossInputs, LossTerm, Need

if TYPE_CHECKING:
    from torch import Tensor


@LOSS_TERMS.register
class HardTargets(LossTerm):
    """alpha · CE(z_s, y); logged also where alpha is 0."""

    label_smoothing: ShareBelowOne = 0.0

    name: ClassVar[str] = "cross_entropy"
    needs: ClassVar[frozenset[Need]] = frozenset({"labels"})
    argument: ClassVar[str | None] = "alpha"
    always_logged: ClassVar[bool] = True

    @classmethod
    def of_arguments(cls, args: Any) -> Self:
        """Return the term as the arguments configure it."""
        return cls.model_construct(weight=args.alpha, label_smoothing=args.label_smoothing_factor)

    def value(self, inputs: LossInputs) -> Tensor:
        """Return the cross-entropy, unlabelled rows counted: a row's weight does not depend on the others."""
        assert inputs.labels is not None
        return cross_entropy(
            inputs.logits, inputs.labels, num_items=inputs.num_items, label_smoothing=self.label_smoothing
        )


def cross_entropy(
    logits: Tensor, labels: Tensor, *, num_items: Tensor | int | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Return the cross-entropy of logits[B, C] and labels[B] in float32; rows labelled -100 add nothing.

    ``num_items``: divisor of the sum over rows; by default the number of labelled rows.
    """
    from torch.nn import functional

    from ...data.tokenized import IGNORED_LABEL

    total = functional.cross_entropy(
        logits.float(),
        labels.long(),
        ignore_index=IGNORED_LABEL,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    if num_items is None:
        num_items = (labels != IGNORED_LABEL).sum().clamp(min=1)
    return total / num_items
