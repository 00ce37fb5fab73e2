from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from distiltune.errors import ConfigError
from distiltune.search.config import SearchConfig
from distiltune.search.space import check_space, distributions, fixed_values
from distiltune.training.config import TrainingConfig


def config(space: dict | None = None, **values) -> SearchConfig:
    return SearchConfig.model_validate({"space": space or {}, **values})


def test_the_default_space_is_the_recipes():
    assert distributions(SearchConfig()) == {
        "alpha": FloatDistribution(0.0, 1.0),
        "temperature": IntDistribution(2, 20),
        "num_train_epochs": IntDistribution(5, 10),
    }
    assert fixed_values(SearchConfig()) == {}


def test_every_kind_of_range_has_its_distribution():
    space = {
        "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-3, "log": True},
        "batch_size": {"type": "choice", "values": [32, 64]},
        "temperature": {"type": "int", "low": 4, "high": 4},
        "alpha": 0.0,
    }
    searched = distributions(config(space))
    assert searched["learning_rate"] == FloatDistribution(1e-4, 1e-3, log=True)
    assert searched["batch_size"] == CategoricalDistribution([32, 64])
    assert set(searched) == {"learning_rate", "batch_size", "num_train_epochs"}
    assert fixed_values(config(space)) == {"alpha": 0.0, "temperature": 4}
    check_space(config(space), TrainingConfig())


def test_false_is_a_fixed_value_too():
    assert fixed_values(config({"freeze_embeddings": False}))["freeze_embeddings"] is False


def test_all_faults_are_told_together_with_the_nearest_name():
    wrong = config({"learning_rat": 1e-3, "temprature": 4}, metric="validation_acuracy")
    with pytest.raises(ConfigError) as caught:
        check_space(wrong, TrainingConfig())
    faults = str(caught.value).splitlines()
    assert len(faults) == 3
    assert "search.space.learning_rat: " in faults[0]
    assert "did you mean 'learning_rate'" in faults[0]
    assert "did you mean 'temperature'" in faults[1]
    assert "search.metric" in faults[2]
    assert "did you mean 'validation_accuracy'" in faults[2]


def test_a_value_that_an_argument_refuses_is_told_before_any_trial():
    wrong = config(
        {"alpha": {"type": "float", "low": 0.5, "high": 2.0}, "temperature": 0, "learning_rate": "high"}
    )
    with pytest.raises(ConfigError) as caught:
        check_space(wrong, TrainingConfig())
    faults = str(caught.value).splitlines()
    assert len(faults) == 3
    assert "search.space.alpha: 2.0" in faults[0]
    assert "search.space.temperature: 0" in faults[1]
    assert faults[2] == "search.space.learning_rate: 'high' is refused: it needs a number"


def test_an_argument_named_twice_is_told():
    with pytest.raises(ConfigError, match="per_device_train_batch_size"):
        check_space(config({"batch_size": 8, "per_device_train_batch_size": 16}), TrainingConfig())


def test_a_mode_against_the_metric_is_told():
    with pytest.raises(ConfigError, match=r"set search\.mode to 'min'"):
        check_space(config(metric="validation_loss"), TrainingConfig())
    check_space(config(metric="validation_loss", mode="min"), TrainingConfig())


class Search:
    """Asks and tells the searcher as Tune does, with trials that end in an order of their own."""

    def __init__(self, *, window: int, max_concurrent: int = 2, num_startup_trials: int = 3) -> None:
        from distiltune.search.searcher import OrderedOptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.max_concurrent = max_concurrent
        self.num_told: list[int] = []  # before each suggestion
        self.searcher = OrderedOptunaSearch(
            {"x": FloatDistribution(0.0, 1.0), "k": IntDistribution(1, 9)},
            {"fixed": 3},
            metric="value",
            mode="max",
            seed=7,
            num_startup_trials=num_startup_trials,
            window=window,
            max_concurrent=max_concurrent,
        )

    def run(
        self, order: list[int], num_trials: int = 12, values: dict[int, float] | None = None
    ) -> list[dict]:
        """The suggestions; ``values`` replaces the results of some trials."""
        found: list[dict] = []
        running: list[int] = []
        while len(found) < num_trials:
            while len(found) < num_trials:
                suggested = self.searcher.suggest(f"t{len(found)}")
                if suggested is None:
                    break
                running.append(len(found))
                found.append(suggested)
                trials = self.searcher._ot_study.trials
                self.num_told.append(sum(trial.state.is_finished() for trial in trials))
            assert len(running) <= self.max_concurrent
            ended = running.pop(order[len(found) % len(order)] % len(running))
            value = -((found[ended]["arguments"]["x"] - 0.3) ** 2)
            result = {"value": (values or {}).get(ended, value), "training_iteration": 1}
            self.searcher.on_trial_result(f"t{ended}", result)
            self.searcher.on_trial_complete(f"t{ended}", result)
        return found


def test_a_seed_repeats_a_search_whatever_the_order_in_which_trials_end():
    first = Search(window=4).run([0])
    assert Search(window=4).run([1, 0, 0]) == first
    assert Search(window=4).run([1, 1, 0]) == first
    assert [each["number"] for each in first] == list(range(12))
    assert all(each["arguments"]["fixed"] == 3 for each in first)


@pytest.mark.parametrize(("window", "max_concurrent"), [(1, 1), (3, 2), (4, 2), (6, 4)])
def test_a_suggestion_knows_the_results_before_its_window_and_no_others(window, max_concurrent):
    def run(values: dict[int, float]) -> list[dict]:
        return Search(window=window, max_concurrent=max_concurrent).run([0], values=values)

    plain = run({})
    at_once = 0
    for trial in range(12 - window):
        # The best and the worst of all: whatever it was, one of them is news.
        changed = [run({trial: value}) for value in (1.0, -9.0)]
        first = min(n for n in range(12) if any(each[n] != plain[n] for each in changed))
        assert first >= max(3, trial + window)
        at_once += first == max(3, trial + window)
    # News need not change the very next suggestion, but mostly does.
    assert at_once >= (12 - window) / 2


def test_one_at_a_time_it_is_plain_optuna():
    sampler = optuna.samplers.TPESampler(seed=7, n_startup_trials=3, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    space = {"x": FloatDistribution(0.0, 1.0), "k": IntDistribution(1, 9)}
    expected = []
    for _ in range(12):
        trial = study.ask(space)
        expected.append({**trial.params, "fixed": 3})
        study.tell(trial, -((trial.params["x"] - 0.3) ** 2))
    found = Search(window=1, max_concurrent=1).run([0])
    assert [each["arguments"] for each in found] == expected


@pytest.mark.parametrize("num_slots", [1, 2, 3, 8, 10, 16, 100])
@pytest.mark.parametrize("given", [None, 10])
def test_however_many_trials_fit_tpe_learns_from_half_of_them(num_slots, given):
    from distiltune.search.searcher import side_by_side, window_of

    search_config = config(max_concurrent_trials=given)
    at_a_time = side_by_side(search_config, num_slots)
    window = window_of(20, at_a_time)
    search = Search(window=window, max_concurrent=at_a_time, num_startup_trials=10)
    search.run([3, 0, 7, 1], num_trials=20)
    assert at_a_time == min(num_slots, given or 5)
    assert search.num_told[-1] >= 10
    assert at_a_time <= window <= 1.5 * at_a_time


def test_random_trials_use_all_resources():
    from distiltune.search.searcher import side_by_side

    assert side_by_side(config(num_trials=10), 16) == 16
    assert side_by_side(config(num_trials=11), 16) == 2
    assert side_by_side(config(num_trials=10, max_concurrent_trials=4), 16) == 4
