"""Magnitude pruning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from .base import PRUNING_RULES, SparsityRule

if TYPE_CHECKING:
    from torch import Tensor

    from .state import PrunedMatrix


@PRUNING_RULES.register
class Magnitude(SparsityRule):
    """Mask the smallest ``|W|`` of each matrix (Zhu and Gupta, arXiv 1710.01878, 2017)."""

    method: Literal["magnitude"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="magnitude", description="The smallest weights are masked."
    )

    def mask(self, matrix: PrunedMatrix, progress: float) -> Tensor:
        """Return the mask that keeps the largest ``|W|``."""
        from .masks import top_mask

        return top_mask(matrix.values.abs(), self.sparsity_at(progress))
