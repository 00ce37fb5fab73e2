"""A genetic algorithm for several objectives."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from .base import SAMPLERS, Sampler, SamplerInputs

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

_LEAST = 4  # trials of a generation


@SAMPLERS.register
class Nsga2(Sampler):
    """Breed each generation from the Pareto-best trials of those before it.

    Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", IEEE Transactions on Evolutionary
    Computation 2002. A conditional argument is inherited also by trials in which its condition does not hold. Trials of
    an earlier search are the first generation, or a part of it.
    """

    type: Literal["nsga2"] = "nsga2"
    population_size: int | None = Field(
        default=None,
        ge=_LEAST,
        le=10_000,
        description="Trials of a generation; those of the first one are random. Default: a fifth of num_trials, from "
        "10 to 50, but at most half of them and at least 4.",
    )

    one_objective: ClassVar[bool] = False
    pruned_trials: ClassVar[bool] = False
    suggests_every_argument: ClassVar[bool] = True

    def num_startup_trials(self, given: int, num_trials: int) -> int:
        """Return the size of the first generation; ``given`` is not used."""
        by_default = max(_LEAST, min(50, max(10, num_trials // 5), num_trials // 2))
        return self.population_size or by_default

    def create(self, inputs: SamplerInputs) -> BaseSampler:
        """Return Optuna's NSGA-II sampler."""
        from optuna.samplers import NSGAIISampler

        size = self.num_startup_trials(inputs.num_results, inputs.num_trials)
        return NSGAIISampler(population_size=size, seed=inputs.seed)

    def adopted(self, trial: FrozenTrial) -> FrozenTrial:
        """Return the trial as a member of the first generation."""
        from optuna.samplers import NSGAIISampler

        # Optuna has no public way to mark a finished trial; without the mark, it would be ignored.
        trial.system_attrs = {**trial.system_attrs, NSGAIISampler._get_generation_key(): 0}
        return trial
