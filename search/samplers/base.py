"""Samplers: their registry, and what a search needs to know of each."""

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
    """What Optuna's sampler is created from.

    Attributes:
        seed: Its seed.
        num_results: Results that Optuna has when the first trial after the random ones is suggested; at least 1.
        num_trials: Number of trials of the search.
        distributions: Every searched argument by name, conditional ones too.
    """

    seed: int
    num_results: int
    num_trials: int
    distributions: Mapping[str, BaseDistribution]


class Sampler(Section):
    """A way to suggest the arguments of the next trial: a key ``type`` with its name, and its parameters.

    The class attributes state what it takes into account. A search that needs more is refused by
    ``space/validation.py``; results are passed to every sampler in the trials' order by ``study/searcher.py``.
    """

    learns: ClassVar[bool] = True
    """Whether its suggestions depend on results; if not, no suggestion waits for one."""
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
    """Whether it needs a value of every argument in every trial, also where the condition of one does not hold."""
    most_modelled: ClassVar[int | None] = None
    """How many trials a suggestion is computed from at most, so that its time does not grow further; None: all."""

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
        """Return a trial of an earlier search in the form in which this sampler learns from it."""
        return trial


SAMPLERS: SectionRegistry[Sampler] = SectionRegistry("type")
