"""Samplers: their registry, and the properties of each that a search depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...training.section import Section
from ...training.section_registry import SectionRegistry

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class SamplerInputs:
    """Inputs for creating Optuna's sampler.

    Attributes:
        seed: Seed of the sampler.
        num_results: Results that Optuna has when the first trial after the random ones is suggested; at least 1.
        num_trials: Number of trials of the search.
        distributions: Every searched argument by name, including conditional ones.
    """

    seed: int
    num_results: int
    num_trials: int
    distributions: Mapping[str, BaseDistribution]


class Sampler(Section):
    """A way to suggest the arguments of the next trial: a key ``type`` with its name, and its parameters.

    The class attributes state what it supports. A search that needs more is rejected by ``space/validation.py``;
    results are passed to every sampler in the trials' order by ``study/searcher.py``.
    """

    learns: ClassVar[bool] = True
    """Whether its suggestions depend on results; if not, no suggestion waits for a result."""
    one_objective: ClassVar[bool] = True
    """Whether it can be used with a single objective."""
    several_objectives: ClassVar[bool] = True
    """Whether it can be used with several objectives."""
    constraints: ClassVar[bool] = True
    """Whether it can be used with constraints."""
    conditions: ClassVar[bool] = True
    """Whether it can be used with conditional arguments."""
    pruned_trials: ClassVar[bool] = True
    """Whether it can be used with early stopping: it learns from stopped trials, or from none at all."""
    suggests_every_argument: ClassVar[bool] = False
    """Whether it needs a value of every argument in every trial, even if the argument's condition does not hold."""
    most_modelled: ClassVar[int | None] = None
    """Maximum number of trials that a suggestion is computed from, to limit its time; None for all."""

    def num_startup_trials(self, given: int, num_trials: int) -> int:
        """Return the number of first trials that are suggested without results.

        Args:
            given: ``search.num_startup_trials``.
            num_trials: Number of trials of the search.
        """
        return given if self.learns else num_trials

    def create(self, inputs: SamplerInputs) -> BaseSampler:
        """Return Optuna's sampler, which must survive pickling with its state."""
        raise NotImplementedError

    def adopted(self, trial: FrozenTrial) -> FrozenTrial:
        """Convert a trial of an earlier search so that this sampler learns from it."""
        return trial


SAMPLERS: SectionRegistry[Sampler] = SectionRegistry("type")
