"""A Sobol sequence over a space that is known before the first trial."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import QMCSampler
from optuna.study import Study
from optuna.trial import FrozenTrial


class SobolSampler(QMCSampler):
    """Follow the scrambled Sobol sequence of a seed from the first trial on, whichever trials have ended.

    Optuna's own sampler takes the space from the first finished trial, so its suggestions depend on which trials have
    ended; its first trials, and all conditional arguments, are random.

    Args:
        distributions: All arguments, including conditional ones.
        seed: Seed of the scrambling.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution], seed: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(qmc_type="sobol", scramble=True, seed=seed)
        self._distributions = {
            name: distributions[name] for name in sorted(distributions) if not distributions[name].single()
        }

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the whole space."""
        return self._distributions
