"""Pruning rules: the registry, and the section ``training.pruning`` without the keys that only one rule has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from ...registry import SectionRegistry
from ...section import LearningRate, Section, ShareBelowOne

if TYPE_CHECKING:
    from torch import Tensor

    from .state import PrunedMatrix


class PruningConfig(Section):
    """Weights that become zero while the student is trained: of the encoder's matrices, not the embeddings.

    A rule is a subclass: it adds ``method``, a literal with its name, its own keys, and ``mask``.
    """

    method: str = Field(default="magnitude", description="How the weights that are masked are selected.")
    begin: ShareBelowOne = Field(default=0.1, description="Share of the steps before the first mask.")
    end: float = Field(
        default=0.7, gt=0, le=1, description="Share of the steps after which the masks stay as they are."
    )
    update_every: int = Field(
        default=20, ge=1, le=10**9, description="Steps between two updates of the masks."
    )

    def mask_steps(self, num_steps: int) -> range:
        """Return the steps of a training of ``num_steps`` after which masks are updated, up to ``end``.

        A training too short for two updates ``update_every`` apart has them at ``begin`` and ``end``.
        """
        first = int(self.begin * num_steps)
        last = max(first + 1, round(self.end * num_steps))
        return range(first, last + 1, min(self.update_every, last - first))

    def mask(self, matrix: PrunedMatrix, risen: float) -> Tensor:
        """Return the next mask bool[out, in] of a matrix, False where a weight becomes zero.

        Args:
            matrix: Weights, present mask and, for a rule with scores, the scores.
            risen: How far the schedule has risen, from 0 at the first mask to 1 at the last.
        """
        raise NotImplementedError

    @model_validator(mode="after")
    def _begins_before_its_end(self) -> PruningConfig:
        if self.begin >= self.end:
            raise ValueError(f"begin {self.begin:g} must be below end {self.end:g}")
        return self


class SparsityRule(PruningConfig):
    """A rule that masks a given share of each matrix."""

    sparsity: ShareBelowOne | None = Field(
        default=None, description="Share of each matrix that is zero in the end; default: 0.5."
    )
    initial_sparsity: ShareBelowOne = Field(
        default=0.0, description="Share that is zero from the first mask on."
    )

    @property
    def final_sparsity(self) -> float:
        """Share of each matrix that is zero in the end."""
        return 0.5 if self.sparsity is None else self.sparsity

    def sparsity_at(self, risen: float) -> float:
        """Return the share that is zero where the schedule has risen so far, 0 to 1."""
        final = self.final_sparsity
        first = min(self.initial_sparsity, final)  # a searched sparsity may be less
        return first + (final - first) * risen

    @model_validator(mode="after")
    def _rises(self) -> SparsityRule:
        if self.initial_sparsity > self.final_sparsity:
            raise ValueError(
                f"initial_sparsity {self.initial_sparsity:g} given; accepted: 0 up to sparsity, "
                f"{self.final_sparsity:g}"
            )
        return self


class ScoresRule(PruningConfig):
    """A rule that learns a score for each weight, from the gradient ``dL/dW' * W``, by Adam."""

    score_learning_rate: LearningRate = Field(
        default=1e-2, description="Adam's rate for the scores, which begin at 0."
    )

    def penalty(self, scores: Sequence[Tensor], risen: float) -> Tensor | None:
        """Return what the scores, each float[out, in], minimize beside the loss, a scalar; None: nothing.

        ``risen``: as in :meth:`mask`.
        """
        return None


PRUNING_RULES: SectionRegistry[PruningConfig] = SectionRegistry("method")


def has_sparsity(config: Any) -> bool:
    """Return whether a rule takes a sparsity, so that it may be searched."""
    return "sparsity" in type(config).model_fields
