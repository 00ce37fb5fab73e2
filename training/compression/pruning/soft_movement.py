"""Soft movement pruning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ...section import Probability, Weight
from .base import PRUNING_RULES, ScoresRule

if TYPE_CHECKING:
    from torch import Tensor

    from .state import PrunedMatrix


@PRUNING_RULES.register
class SoftMovement(ScoresRule):
    """Mask scores below one threshold for all matrices (Sanh, Wolf and Rush, arXiv 2005.07683, 2020, table 1).

    The sparsity results from ``threshold`` and ``regularization``.
    """

    method: Literal["soft_movement"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="soft_movement", description="Weights with a score below a threshold are masked."
    )
    threshold: Probability = Field(
        default=0.1, description="Threshold of sigmoid(score), at the schedule's end."
    )
    regularization: Weight = Field(
        default=100.0, description="Weight of mean(sigmoid(score)) in the loss, at the schedule's end."
    )

    def mask(self, matrix: PrunedMatrix, progress: float) -> Tensor:
        """Return the mask that keeps scores above the threshold, which rises with the schedule."""
        from .masks import soft_mask

        assert matrix.scores is not None
        return soft_mask(matrix.scores, self.threshold * progress)

    def penalty(self, scores: Sequence[Tensor], progress: float) -> Tensor | None:
        """Return the weighted mean of sigmoid(score); the weight rises with the schedule."""
        from .masks import mean_sigmoid

        weight = self.regularization * progress
        return weight * mean_sigmoid(scores)
