"""Random search."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from .base import SAMPLERS, Sampler, SamplerInputs

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@SAMPLERS.register
class RandomSearch(Sampler):
    """Draw every argument independently and uniformly from its range."""

    type: Literal["random"] = "random"

    learns: ClassVar[bool] = False

    def create(self, inputs: SamplerInputs) -> BaseSampler:
        """Return Optuna's random sampler."""
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=inputs.seed)
