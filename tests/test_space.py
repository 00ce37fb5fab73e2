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


def suggestions(order: list[int], *, window: int, num_trials: int = 12) -> list[dict]:
    """Ask and tell the searcher as Tune does with trials that end in an order of their own."""
    from distiltune.search.searcher import OrderedOptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    searcher = OrderedOptunaSearch(
        {"x": FloatDistribution(0.0, 1.0), "k": IntDistribution(1, 9)},
        {"fixed": 3},
        metric="value",
        mode="max",
        seed=7,
        num_startup_trials=3,
        window=window,
        max_concurrent=2,
    )
    found: list[dict] = []
    running: list[int] = []
    while len(found) < num_trials:
        while len(running) < 2 and len(found) < num_trials:
            suggested = searcher.suggest(f"t{len(found)}")
            if suggested is None:
                break
            running.append(len(found))
            found.append(suggested)
        ended = running.pop(order[len(found) % len(order)] % len(running))
        value = -((found[ended]["arguments"]["x"] - 0.3) ** 2)
        searcher.on_trial_result(f"t{ended}", {"value": value, "training_iteration": 1})
        searcher.on_trial_complete(f"t{ended}", {"value": value, "training_iteration": 1})
    return found


def test_a_seed_repeats_a_search_whatever_the_order_in_which_trials_end():
    first = suggestions([0], window=4)
    assert suggestions([1, 0, 0], window=4) == first
    assert suggestions([1, 1, 0], window=4) == first
    assert [each["number"] for each in first] == list(range(12))
    assert all(each["arguments"]["fixed"] == 3 for each in first)
