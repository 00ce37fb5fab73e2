"""The contract of every sampler, and a sampler registered from outside."""

from __future__ import annotations

import statistics
from typing import Any, ClassVar, Literal

import optuna
import pytest
from optuna.trial import TrialState
from pydantic import Field, ValidationError

from distiltune.cluster.specification.config import JobConfig, load_config
from distiltune.cluster.specification.printing import as_yaml
from distiltune.cluster.specification.reading import parse_yaml
from distiltune.errors import ConfigError
from distiltune.search.config import Constraint, Objective, SearchConfig
from distiltune.search.parameters import Choice, Fixed, FloatRange, IntRange
from distiltune.search.samplers.base import SAMPLERS, Sampler, SamplerInputs
from distiltune.search.samplers.gp import Gp
from distiltune.search.space.combinations import combination_faults
from distiltune.search.space.space import searched
from distiltune.search.space.validation import check_space
from distiltune.training.distillation.config import TrainingConfig

ENTRIES = list(SAMPLERS)
every_sampler = pytest.mark.parametrize("entry", ENTRIES, ids=SAMPLERS.names)


def suggesting(entries: list[type[Sampler]]) -> pytest.MarkDecorator:
    """Parametrize a test that waits for suggestions; those of a Gaussian process take a second each."""
    slow = [pytest.mark.slow, pytest.mark.timeout(120)]
    each = [
        pytest.param(entry, id=SAMPLERS.name_of(entry), marks=slow if entry is Gp else [])
        for entry in entries
    ]
    return pytest.mark.parametrize("entry", each)


every_suggesting_sampler = suggesting(ENTRIES)
SPACE = {
    "x": FloatRange(low=0.0, high=1.0),
    "rate": FloatRange(low=1e-5, high=1e-2, log=True),
    "k": IntRange(low=1, high=9),
    "kind": Choice(values=["a", "b"]),
    "layers": Choice(values=[[0], [0, 1]]),
    "only_b": FloatRange(low=5.0, high=6.0, when={"kind": "b"}),
    "fixed": Fixed(value=3),
}
NUM_STARTUP = 5
MAX, MIN = Objective(metric="value", mode="max"), Objective(metric="cost", mode="min")


def results(arguments: dict[str, Any]) -> dict[str, float]:
    """The best value is at x = 0.3 and k = 5, the lowest cost at x = 0."""
    value = -((arguments["x"] - 0.3) ** 2) - 0.01 * (arguments["k"] - 5) ** 2
    return {"value": value, "cost": arguments["x"]}


class Search:
    """Drive a searcher as Tune does, with trials that end in a given order."""

    def __init__(self, sampler: Sampler, *, num_trials: int = 12, window: int = 3, **more: Any) -> None:
        from distiltune.search.study.searcher import StudySearcher

        space, startup = more.pop("space", SPACE), more.pop("num_startup_trials", NUM_STARTUP)
        objectives = [MAX] if type(sampler).one_objective else [MAX, MIN]
        self.max_concurrent = more.pop("max_concurrent", 2)
        self.searcher = StudySearcher(
            space,
            objectives=more.pop("objectives", objectives),
            seed=more.pop("seed", 7),
            num_trials=num_trials,
            num_startup_trials=startup,
            window=window,
            max_concurrent=self.max_concurrent,
            sampler=sampler,
            **more,
        )
        self.found: list[dict[str, Any]] = []
        self.running: list[int] = []

    def run(self, num: int, order: tuple[int, ...] = (0,)) -> list[dict[str, Any]]:
        """Continue until ``num`` trials have been suggested; returns the arguments of all."""
        while True:
            while len(self.found) < num:
                suggested = self.searcher.suggest(f"t{len(self.found)}")
                if suggested is None:
                    break
                self.running.append(len(self.found))
                self.found.append(suggested["arguments"])
            if len(self.found) == num:
                return self.found
            self.end(self.running.pop(order[len(self.found) % len(order)] % len(self.running)))

    def end(self, number: int) -> None:
        result = {**results(self.found[number]), "progress": 1.0, "curve": []}
        self.searcher.on_trial_result(f"t{number}", result)
        self.searcher.on_trial_complete(f"t{number}", result)


def num_of(entry: type[Sampler]) -> int:
    """Number of trials in which a sampler has suggested some from results."""
    return NUM_STARTUP + (2 if entry is Gp else 7)


def sampler_of(entry: type[Sampler], **values: Any) -> Sampler:
    small = {"population_size": 4} if "population_size" in entry.model_fields else {}
    return entry.model_validate({**small, **values})


def config_of(entry: type[Sampler], **values: Any) -> SearchConfig:
    several = {} if entry.one_objective else {"objectives": [{"metric": "validation_loss", "mode": "min"}]}
    return SearchConfig.model_validate({"sampler": SAMPLERS.name_of(entry), **several, **values})


def refusal(config: SearchConfig) -> str:
    with pytest.raises(ConfigError) as raised:
        check_space(config, TrainingConfig())
    return str(raised.value)


def test_the_samplers_in_the_order_in_which_they_are_listed():
    assert SAMPLERS.names == ["tpe", "random", "qmc", "nsga2", "gp"]
    assert SearchConfig().sampler == SAMPLERS["tpe"]()


@every_sampler
def test_a_sampler_is_named_alone_or_with_parameters(entry):
    def search(**values: Any) -> SearchConfig:
        return SearchConfig.model_validate(values)

    name = SAMPLERS.name_of(entry)
    assert search(sampler=name).sampler == search(sampler={"type": name}).sampler == entry()
    again = SearchConfig.model_validate_json(search(sampler=name).model_dump_json())
    assert again.sampler == entry()
    with pytest.raises(ValidationError, match="speed"):
        search(sampler={"type": name, "speed": 3})


@every_sampler
def test_a_sampler_is_in_the_help_and_in_the_schema(entry):
    assert SAMPLERS.name_of(entry) in (SearchConfig.model_fields["sampler"].description or "")
    schema = JobConfig.model_json_schema()["$defs"]
    assert set(schema[entry.__name__]["properties"]) == set(entry.model_fields)


@every_suggesting_sampler
def test_suggestions_are_in_range_and_meet_the_conditions(entry, capfd):
    found = Search(sampler_of(entry)).run(num_of(entry))
    assert capfd.readouterr() == ("", ""), "nothing appears among the lines of a run"
    for arguments in found:
        assert 0 <= arguments["x"] <= 1
        assert 1e-5 <= arguments["rate"] <= 1e-2
        assert type(arguments["k"]) is int and 1 <= arguments["k"] <= 9
        assert arguments["layers"] in ([0], [0, 1])
        assert arguments["fixed"] == 3
        assert ("only_b" in arguments) == (arguments["kind"] == "b")
        assert 5 <= arguments.get("only_b", 5) <= 6
    assert {each["kind"] for each in found} == {"a", "b"}
    assert len({each["x"] for each in found}) >= NUM_STARTUP


@every_suggesting_sampler
def test_a_seed_repeats_a_search_whatever_the_order_in_which_trials_end(entry):
    first = Search(sampler_of(entry)).run(num_of(entry))
    assert Search(sampler_of(entry)).run(num_of(entry), order=(1, 0, 1)) == first
    assert Search(sampler_of(entry), seed=8).run(num_of(entry)) != first


@every_suggesting_sampler
def test_a_restored_search_continues_as_if_it_had_not_been_interrupted(entry, tmp_path):
    whole = Search(sampler_of(entry)).run(num_of(entry))
    begun, other = Search(sampler_of(entry)), Search(sampler_of(entry), seed=99)
    begun.run(num_of(entry) - 1)
    begun.searcher.save(str(tmp_path / "state"))
    other.searcher.restore(str(tmp_path / "state"))
    other.found, other.running = list(begun.found), list(begun.running)
    assert other.run(num_of(entry)) == whole


@every_suggesting_sampler
def test_an_extended_search_keeps_its_sampler(entry):
    short, long = (Search(sampler_of(entry), num_trials=num) for num in (6, num_of(entry)))
    short.run(6)
    short.searcher.extend(num_of(entry))
    assert short.run(num_of(entry)) == long.run(num_of(entry))


@suggesting([each for each in ENTRIES if each is not Gp])
def test_no_student_is_suggested_that_violates_a_bound(entry):
    """Every value of the two arguments has a student that meets the bound, but not every pair does."""
    wide = Choice(values=[[0], [0, 1]]), Choice(values=[64, 128])
    space = {**SPACE, "student.layers": wide[0], "student.hidden_size": wide[1]}
    students = {
        f"student.layers={layers}; student.hidden_size={size}": {
            "student.layers": layers,
            "student.hidden_size": size,
        }
        for layers, size in (([0], 64), ([0], 128), ([0, 1], 64))
    }
    points = [{"student.layers": [0, 1], "student.hidden_size": 128}, {"k": 2, "student.hidden_size": 64}]

    def run(**more: Any) -> list[dict[str, Any]]:
        search = Search(sampler_of(entry), space=space, num_trials=24, points=points, **more)
        return search.run(24)

    found = run(students=students)
    drawn = [(each["student.layers"], each["student.hidden_size"]) for each in found]
    assert {((0,), 128), ((0, 1), 64)} <= {(tuple(layers), size) for layers, size in drawn}
    assert ([0, 1], 128) not in drawn
    assert (found[0]["k"], found[0]["student.hidden_size"]) == (2, 64), (
        "the other point is the first that fits"
    )
    assert run(students=students) == found
    free = [(each["student.layers"], each["student.hidden_size"]) for each in run()]
    assert free[0] == ([0, 1], 128) and free.count(([0, 1], 128)) > 1


@every_sampler
def test_only_a_sampler_that_learns_waits_for_results(entry):
    from distiltune.search.study.searcher import num_parallel_trials

    search = Search(sampler_of(entry), max_concurrent=num_of(entry))
    suggested = [search.searcher.suggest(f"t{number}") for number in range(num_of(entry))]
    assert (suggested[-1] is None) == entry.learns
    config = config_of(entry, num_trials=100)
    assert num_parallel_trials(config, 50) == (25 if entry.learns else 50)
    assert num_parallel_trials(config.model_copy(update={"max_concurrent_trials": 3}), 50) == 3


@suggesting([each for each in ENTRIES if each.learns])
def test_a_sampler_that_learns_prefers_what_was_good(entry):
    space = {name: SPACE[name] for name in ("x", "k", "rate")}
    objectives = [MAX] if entry.one_objective else [MAX, Objective(metric="value", mode="max")]
    # For each of ten seeds these are enough. The first suggestions of a Gaussian process explore the corners.
    num = 20 if entry is Gp else 80
    search = Search(
        sampler_of(entry), space=space, objectives=objectives, window=1, max_concurrent=1, num_trials=num
    )
    lost = [-results(each)["value"] for each in search.run(num)]
    assert statistics.median(lost[-num // 3 :]) < statistics.median(lost[:NUM_STARTUP]) / 2


def known(num: int, **more: Any) -> list[optuna.trial.FrozenTrial]:
    """Trials of an earlier search without the conditional argument; both arguments that matter vary in them.

    A Gaussian process rightly tries other values of an argument that has had a single one.
    """
    space = searched(SearchConfig(space={name: each for name, each in SPACE.items() if name != "only_b"}))
    trials = []
    for number in range(num):
        x, k = (number + 0.5) / num, 1 + 2 * number % 9
        arguments = {"x": x, "rate": 1e-3, "k": k, "kind": "a", "layers": "[0]"}
        measured = results(arguments)
        trials.append(
            optuna.trial.create_trial(
                params=arguments,
                distributions={name: space[name].distribution() for name in arguments},
                **{name: value(measured) for name, value in more.items()},
            )
        )
    return trials


@every_suggesting_sampler
def test_a_warm_start_changes_what_a_sampler_suggests_if_it_learns(entry):
    objectives = [MAX] if entry.one_objective else [MAX, Objective(metric="value", mode="max")]
    trials = known(20, values=lambda measured: [measured["value"]] * len(objectives))
    alone, taught, again = (
        Search(sampler_of(entry), num_startup_trials=4, objectives=objectives, known=each).run(5)
        for each in ([], trials, trials)
    )
    assert taught == again
    assert (taught == alone) != entry.learns
    if entry.learns:
        reached = [sum(results(each)["value"] for each in found) for found in (alone, taught)]
        assert reached[1] > reached[0]


@every_suggesting_sampler
def test_constraints_are_passed_on_and_respected_by_a_sampler_that_learns(entry):
    constraints = [Constraint(metric="cost", sense="<=", bound=0.15)]  # the best value lies outside
    space = {"x": FloatRange(low=0.0, high=1.0), "k": Fixed(value=5)}
    search = Search(sampler_of(entry), space=space, constraints=constraints, window=1, max_concurrent=1)
    found = search.run(num_of(entry))
    completed = search.searcher.study.get_trials(states=[TrialState.COMPLETE])
    assert len(completed) >= num_of(entry) - 2
    for trial in completed:
        assert trial.constraints == {"cost <= 0.15": pytest.approx(trial.params["x"] - 0.15)}
    if entry.learns and entry.one_objective:
        excess = [max(0.0, each["x"] - 0.15) for each in found]
        assert statistics.fmean(excess[-2:]) < statistics.fmean(excess[:NUM_STARTUP])
    check_space(config_of(entry, constraints=["validation_macro_f1 >= 0.1"]), TrainingConfig())


@every_suggesting_sampler
def test_several_objectives_are_optimised(entry):
    assert entry.several_objectives
    search = Search(sampler_of(entry), objectives=[MAX, MIN])
    found = search.run(num_of(entry))
    completed = search.searcher.study.get_trials(states=[TrialState.COMPLETE])
    assert [trial.values for trial in completed] == [
        list(results(each).values()) for each in found[: len(completed)]
    ]
    config = config_of(entry, objectives=[{"metric": "validation_loss", "mode": "min"}])
    check_space(config, TrainingConfig())


@every_sampler
def test_one_objective_is_optimised_or_refused(entry):
    config = SearchConfig(sampler=entry())
    if entry.one_objective:
        check_space(config, TrainingConfig())
        return
    message = refusal(config)
    for part in (
        "search.sampler",
        "nsga2",
        "accepted for this search: tpe, random, qmc, gp",
        "search.objectives",
    ):
        assert part in message
    assert "\n" not in message


@every_sampler
def test_early_stopping_is_accepted_or_refused(entry):
    config = SearchConfig.model_validate({"sampler": SAMPLERS.name_of(entry), "scheduler": "asha"})
    if entry.pruned_trials:
        check_space(config, TrainingConfig())
        search = Search(sampler_of(entry), window=1)
        search.run(1)
        stopped = {"value": 0.1, "progress": 0.5, "curve": [[0.5, 0.1]]}
        search.searcher.on_trial_complete("t0", stopped)
        search.running.clear()
        assert len(search.run(8)) == 8
        return
    message = refusal(config)
    for part in ("search.sampler", SAMPLERS.name_of(entry), "'asha'", "tpe, random, qmc", "scheduler: none"):
        assert part in message


@every_sampler
def test_a_warm_start_of_a_sampler_that_learns_nothing_is_refused(entry):
    config = config_of(entry, warm_start="former")
    if entry.learns:
        check_space(config, TrainingConfig())
        return
    message = refusal(config)
    for part in ("search.warm_start", "'former'", SAMPLERS.name_of(entry), "tpe, nsga2, gp", "remove"):
        assert part in message


class Coordinates(Sampler):
    """Draw from a grid; it supports a single metric and nothing else."""

    type: Literal["coordinates"] = "coordinates"
    steps: int = Field(default=3, ge=2, le=9, description="Values of an argument.")
    several_objectives: ClassVar[bool] = False
    constraints: ClassVar[bool] = False
    conditions: ClassVar[bool] = False
    pruned_trials: ClassVar[bool] = False
    learns: ClassVar[bool] = False

    def create(self, inputs: SamplerInputs) -> optuna.samplers.BaseSampler:
        grid = {name: [each.low, each.high] for name, each in inputs.distributions.items()}  # pyright: ignore
        return optuna.samplers.GridSampler(grid, seed=inputs.seed)


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"objectives": [{"metric": "validation_loss", "mode": "min"}]}, ["search.constraints", "nsga2"]),
        ({"constraints": ["validation_loss <= 1"]}, ["search.constraints", "remove"]),
        ({"scheduler": "median"}, ["'median'", "scheduler: none"]),
    ],
)
def test_what_a_sampler_does_not_support_is_refused_before_anything_starts(values, parts):
    with SAMPLERS.temporarily(Coordinates):
        message = refusal(SearchConfig.model_validate({"sampler": "coordinates", **values}))
    for part in ("search.sampler", "'coordinates'", "accepted for this search: tpe", *parts):
        assert part in message
    assert "\n" not in message


def test_conditional_arguments_are_refused_by_their_name():
    space = {"adam_beta2": {"type": "float", "low": 0.9, "high": 0.99, "when": {"alpha": 0.0}}, "alpha": 0.0}
    with SAMPLERS.temporarily(Coordinates):
        message = refusal(SearchConfig.model_validate({"sampler": "coordinates", "space": space}))
    for part in ("'coordinates'", "search.space.adam_beta2", "tpe, random, qmc, gp", "`when`"):
        assert part in message


def test_a_sampler_that_is_added_from_outside_suggests_trials():
    with pytest.raises(ConfigError, match=r"search\.sampler: 'coordinates'"):
        load_config("quickstart", ["search.sampler=coordinates"])
    with SAMPLERS.temporarily(Coordinates):
        config = load_config("quickstart", ["search.sampler={type: coordinates, steps: 4}"]).search
        with pytest.raises(ConfigError, match=r"search\.sampler\.stops: .*steps"):
            load_config("quickstart", ["search.sampler={type: coordinates, stops: 4}"])
        with pytest.raises(ConfigError, match=r"search\.sampler\.steps: .*1"):
            load_config("quickstart", ["search.sampler={type: coordinates, steps: 1}"])
        assert "Coordinates" in JobConfig.model_json_schema()["$defs"]
        printed = parse_yaml(as_yaml(JobConfig(search=config)))
        assert JobConfig.model_validate(printed).search.sampler == config.sampler
        space = {"x": FloatRange(low=0.0, high=1.0), "k": IntRange(low=1, high=9)}
        search = Search(config.sampler, space=space, num_trials=4)
        assert {(each["x"], each["k"]) for each in search.run(4)} == {(0, 1), (0, 9), (1, 1), (1, 9)}


@pytest.mark.parametrize(("size", "num_trials"), [(4, 4), (30, 20), (10_000, 9_999), (None, 4)])
def test_a_generation_as_large_as_the_search_is_refused(size, num_trials):
    sampler = {"type": "nsga2", "population_size": size}
    several = {"objectives": [{"metric": "validation_loss", "mode": "min"}]}
    message = refusal(SearchConfig.model_validate({"sampler": sampler, "num_trials": num_trials, **several}))
    for part in (
        "search.sampler.population_size",
        str(size or 4),
        f"search.num_trials is {num_trials}",
        "raise",
    ):
        assert part in message


def test_by_default_a_small_search_breeds_half_of_its_trials():
    several = {"objectives": [{"metric": "validation_loss", "mode": "min"}]}
    config = SearchConfig.model_validate({"sampler": "nsga2", "num_trials": 8, **several})
    assert not combination_faults(config)
    assert config.sampler.num_startup_trials(10, config.num_trials) == 4
