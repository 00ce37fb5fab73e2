"""Movement pruning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from .base import PRUNING_RULES, ScoresRule, SparsityRule

if TYPE_CHECKING:
    from torch import Tensor

    from .state import PrunedMatrix


@PRUNING_RULES.register
class Movement(SparsityRule, ScoresRule):
    """Mask the lowest scores of each matrix (Sanh, Wolf and Rush, arXiv 2005.07683, 2020)."""

    method: Literal["movement"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="movement", description="The weights that training moves most towards zero are masked."
    )

    def mask(self, matrix: PrunedMatrix, progress: float) -> Tensor:
        """Return the mask that keeps the highest scores."""
        from .masks import top_mask

        assert matrix.scores is not None
        return top_mask(matrix.scores, self.sparsity_at(progress))
