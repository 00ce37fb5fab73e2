"""Pruning rules: the registry, and the section ``training.pruning`` without the keys that only one rule has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from ...section import LearningRate, Section, ShareBelowOne
from ...section_registry import SectionRegistry

if TYPE_CHECKING:
    from torch import Tensor

    from .state import PrunedMatrix


class PruningConfig(Section):
    """Pruning of the encoder's weight matrices while the student is trained; embeddings are not pruned.

    A rule is a subclass that adds ``method`` (a literal with its name), its own keys, and ``mask``.
    """

    method: str = Field(default="magnitude", description="Rule that selects the weights to mask.")
    begin: ShareBelowOne = Field(default=0.1, description="Share of the steps before the first mask.")
    end: float = Field(
        default=0.7, gt=0, le=1, description="Share of the steps after which the masks no longer change."
    )
    update_every: int = Field(
        default=20, ge=1, le=10**9, description="Steps between two updates of the masks."
    )

    def mask_steps(self, num_steps: int) -> range:
        """Return the steps, of ``num_steps`` in all, after which masks are updated.

        If training is too short for two updates ``update_every`` apart, masks are updated at ``begin`` and ``end``.
        """
        first = int(self.begin * num_steps)
        last = max(first + 1, round(self.end * num_steps))
        return range(first, last + 1, min(self.update_every, last - first))

    def mask(self, matrix: PrunedMatrix, progress: float) -> Tensor:
        """Return the next mask bool[out, in] of a matrix, False where a weight becomes zero.

        Args:
            matrix: Weights, current mask and, for a rule with scores, the scores.
            progress: Progress of the schedule, from 0 at the first mask to 1 at the last.
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
        default=None, description="Final share of zeros in each matrix; default: 0.5."
    )
    initial_sparsity: ShareBelowOne = Field(default=0.0, description="Share of zeros in the first mask.")

    @property
    def final_sparsity(self) -> float:
        """Share of each matrix that is zero in the end."""
        return 0.5 if self.sparsity is None else self.sparsity

    def sparsity_at(self, progress: float) -> float:
        """Return the share of zeros at this progress of the schedule, 0 to 1."""
        final = self.final_sparsity
        first = min(self.initial_sparsity, final)  # a searched sparsity may be lower
        return first + (final - first) * progress

    @model_validator(mode="after")
    def _rises(self) -> SparsityRule:
        if self.initial_sparsity > self.final_sparsity:
            raise ValueError(
                f"initial_sparsity {self.initial_sparsity:g} given; accepted: 0 to sparsity, {self.final_sparsity:g}"
            )
        return self


class ScoresRule(PruningConfig):
    """A rule that trains a score for each weight with Adam, from the gradient ``dL/dW' * W``."""

    score_learning_rate: LearningRate = Field(
        default=1e-2, description="Learning rate of Adam for the scores, which start at 0."
    )

    def penalty(self, scores: Sequence[Tensor], progress: float) -> Tensor | None:
        """Return the scalar penalty on the scores, each float[out, in], that is added to the loss, or None.

        ``progress`` is as in :meth:`mask`.
        """
        return None


PRUNING_RULES: SectionRegistry[PruningConfig] = SectionRegistry("method")


def has_sparsity(config: Any) -> bool:
    """Return whether a rule has a ``sparsity`` key, which a search can tune."""
    return "sparsity" in type(config).model_fields
