"""Gaussian processes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, ClassVar, Literal

from .base import SAMPLERS, Sampler, SamplerInputs

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@SAMPLERS.register
class Gp(Sampler):
    """Fit a Gaussian process to the results, and suggest where it expects the largest improvement.

    Jones et al., "Efficient Global Optimization of Expensive Black-Box Functions", Journal of Global Optimization 1998;
    with a Matern kernel, the hypervolume's improvement with several objectives, and the probability that constraints
    hold. It learns from trials that ran to their end.
    """

    type: Literal["gp"] = "gp"

    pruned_trials: ClassVar[bool] = False
    suggests_every_argument: ClassVar[bool] = True
    most_modelled: ClassVar[int | None] = 150

    def create(self, inputs: SamplerInputs) -> BaseSampler:
        """Return Optuna's Gaussian-process sampler."""
        from optuna.samplers import GPSampler

        # On the first suggestion it logs advice to install greenlet, which does not belong in the output of a run.
        logging.getLogger("optuna._gp.batched_lbfgsb").setLevel(logging.ERROR)
        return GPSampler(
            seed=inputs.seed, n_startup_trials=inputs.num_results, warn_independent_sampling=False
        )
