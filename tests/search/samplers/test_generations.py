"""The sequence of ``qmc`` and the generations of ``nsga2``: what the contract of all samplers does not show."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from distiltune.search.samplers.base import SamplerInputs
from distiltune.search.samplers.nsga2 import Nsga2
from distiltune.search.samplers.qmc import Qmc

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0), "one": IntDistribution(3, 3)}


def inputs(space: dict, num_trials: int = 40, seed: int = 3) -> SamplerInputs:
    return SamplerInputs(seed=seed, num_results=1, num_trials=num_trials, distributions=space)


def study_of(sampler, directions=("maximize",)) -> optuna.Study:
    return optuna.create_study(directions=list(directions), sampler=sampler)


@pytest.mark.parametrize("seed", [3, 4])
def test_a_quasi_random_search_fills_every_cell_of_a_grid_once(seed):
    study = study_of(Qmc().create(inputs(SPACE, seed=seed)))
    points = [study.ask(SPACE).params for _ in range(16)]
    for name in ("x", "y"):
        assert sorted(int(16 * point[name]) for point in points) == list(range(16))
    assert len({(int(4 * point["x"]), int(4 * point["y"])) for point in points}) == 16
    assert {point["one"] for point in points} == {3}


def test_a_quasi_random_search_does_not_depend_on_what_has_ended():
    def ask(ended: int) -> list[dict]:
        study = study_of(Qmc().create(inputs(SPACE)))
        found = []
        for number in range(8):
            trial = study.ask(SPACE)
            found.append(trial.params)
            if number < ended:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return found

    assert ask(0) == ask(3) == ask(8)


def test_a_conditional_argument_has_a_dimension_of_its_own():
    space = {**SPACE, "kind": CategoricalDistribution(["a", "b"])}
    study, seen = study_of(Qmc().create(inputs(space))), []
    for _ in range(32):
        trial = study.ask()
        if trial.suggest_categorical("kind", ["a", "b"]) == "b":
            seen.append(trial.suggest_float("x", 0.0, 1.0))
    assert len(seen) == 16
    assert sorted(int(8 * x) for x in seen) == sorted([*range(8)] * 2)


@pytest.mark.parametrize(
    ("num_trials", "size"), [(5, 4), (9, 4), (19, 9), (20, 10), (54, 10), (249, 49), (250, 50), (10_000, 50)]
)
def test_a_generation_is_a_fifth_of_the_trials(num_trials, size):
    assert Nsga2().num_startup_trials(10, num_trials) == size
    assert Nsga2(population_size=6).num_startup_trials(10, num_trials) == 6


def first_values(known: int) -> list[float]:
    """Values of x in the first trials after ``known`` former ones, all of which have x near 0.25."""
    kind, names = Nsga2(population_size=6), {name: SPACE[name] for name in ("x", "y")}
    study = study_of(kind.create(inputs(names)), ("maximize", "minimize"))
    for number in range(known):
        params = {"x": 0.25 + number / 1000, "y": 0.5}
        trial = optuna.trial.create_trial(params=params, distributions=names, values=[1.0, 0.0])
        study.add_trial(kind.adopted(trial))
    found = []
    for _ in range(20):
        trial = study.ask(names)
        found.append(trial.params["x"])
        study.tell(trial, [0.0, 1.0])
    return found


def test_former_trials_are_the_first_generation_and_used_at_once():
    """Fails if Optuna renames the mark of a generation: former trials would then be ignored."""
    assert sum(0.24 < x < 0.26 for x in first_values(known=6)) >= 5
    assert sum(0.24 < x < 0.26 for x in first_values(known=0)) <= 2
