"""Quasi-random search."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from .base import SAMPLERS, Sampler, SamplerInputs

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@SAMPLERS.register
class Qmc(Sampler):
    """Follow a scrambled Sobol sequence, which covers the space more evenly than random points.

    Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization", JMLR 2012, section 3. A conditional argument
    has its own dimension, which is unused where its condition does not hold.
    """

    type: Literal["qmc"] = "qmc"

    learns: ClassVar[bool] = False

    def create(self, inputs: SamplerInputs) -> BaseSampler:
        """Return a sampler whose n-th suggestion is the n-th point of the sequence."""
        from .sobol import SobolSampler

        return SobolSampler(inputs.distributions, inputs.seed)
