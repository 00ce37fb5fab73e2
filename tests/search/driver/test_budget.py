"""Conditions that end a search early, and the trial that is then selected."""

from __future__ import annotations

import os
import pickle
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from distiltune.errors import StorageError
from distiltune.search.config import Objective, SearchConfig
from distiltune.search.driver import budget as budgets
from distiltune.search.driver.budget import BudgetMonitor, max_failed
from distiltune.search.selection import choose_trial, pareto_front
from distiltune.search.trial_record import TrialRecord
from distiltune.storage.store import Store


def config(**values) -> SearchConfig:
    return SearchConfig.model_validate(values)


def test_without_a_budget_nothing_ends():
    assert BudgetMonitor(config()).ended_by(0.99) is None


def test_wall_time_counts_all_attempts_together(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(budgets.time, "monotonic", lambda: now[0])
    first = BudgetMonitor(config(budget={"wall_time_s": 60}))
    now[0] += 40
    assert first.ended_by(None) is None
    second = BudgetMonitor(config(budget={"wall_time_s": 60}))
    state = first.get_state()
    now[0] += 1000  # no attempt was running
    second.set_state(state)
    now[0] += 19
    assert second.ended_by(None) is None
    now[0] += 1
    assert second.ended_by(None) == "its limit of 60 s is reached"
    pickled = pickle.dumps(second)
    now[0] = 5.0  # another machine
    third = pickle.loads(pickled)
    third.set_state(state)
    assert third.seconds == 40


@pytest.mark.parametrize(
    ("metric", "mode", "below", "reached"),
    [("validation_accuracy", "max", 0.94, 0.95), ("validation_loss", "min", 0.96, 0.95)],
)
def test_a_target_is_reached_in_the_metrics_own_direction(metric, mode, below, reached):
    watch = BudgetMonitor(config(metric=metric, mode=mode, budget={"target_value": 0.95}))
    assert watch.ended_by(None) is None
    assert watch.ended_by(below) is None
    assert watch.ended_by(reached) == f"{metric} 0.9500 reached its target 0.95"


def test_patience_counts_trials_without_a_better_value():
    watch = BudgetMonitor(config(budget={"patience": 2}))
    for best in (0.5, 0.6, 0.6):
        watch.trial_ended(best)
        assert watch.ended_by(best) is None
    watch.trial_ended(0.6)
    assert watch.ended_by(0.6) == "2 consecutive trials did not improve validation_accuracy"
    again = BudgetMonitor(config(budget={"patience": 2}))
    again.set_state(watch.get_state())
    assert again.ended_by(0.6) is not None


def test_too_many_failures_are_summed_up():
    assert (max_failed(config(num_trials=4)), max_failed(config(num_trials=40))) == (3, 10)
    watch = BudgetMonitor(config(max_failed_trials=2))
    assert watch.too_many_failed(Counter({"nan": 2})) is None
    reason = watch.too_many_failed(Counter({"nan": 2, "out of memory": 1}))
    assert reason is not None
    assert reason.startswith(
        "3 trials failed, search.max_failed_trials allows 2: 2 x nan; 1 x out of memory; "
    )


def record(number: int, accuracy: float, latency: float = 1.0, state="finished") -> TrialRecord:
    metrics = {"validation_accuracy": accuracy, "latency_ms": latency}
    return TrialRecord(
        trial_id=f"t{number}",
        number=number,
        parameters={},
        state=state,
        metrics=metrics,
        best_epoch=1,
        checkpoint=f"c{number}",
    )


def test_one_metric_chooses_the_best_trial_and_the_earlier_of_equals():
    trials = [record(0, 0.9), record(1, 0.95), record(2, 0.95), record(3, 0.99, state="failed")]
    choice = choose_trial(trials, config())
    assert (choice.best.trial_id, choice.front, choice.text) == ("t1", ["t1"], "")


def test_a_trial_that_was_cut_short_when_it_reached_the_target_is_the_best():
    trials = [
        record(0, 0.93),
        record(1, 0.951, state="pruned"),
        record(2, 0.99, state="pruned").model_copy(update={"checkpoint": None}),
    ]
    assert choose_trial(trials, config()).best.trial_id == "t1"


def test_a_trial_that_waited_for_its_place_when_the_search_was_ended_is_not_missed(tmp_path):
    from distiltune.search.driver.collect import _record
    from distiltune.search.driver.experiment import SearchEnd

    settings = SimpleNamespace(store=Store(str(tmp_path)), experiment="search")
    plan: Any = SimpleNamespace(settings=settings, config=config())
    waited: Any = SimpleNamespace(config=None, path="search/0a1b2c3d", metrics=None, error=None)
    grid: Any = [waited]
    assert _record(waited, SearchEnd(grid, 0, "60 s"), plan, set()) is None
    with pytest.raises(StorageError, match=r"0a1b2c3d/params\.json"):
        _record(waited, SearchEnd(grid, 1), plan, set())


@pytest.mark.parametrize(("num_trials", "seconds"), [(5, "10"), (200, "10"), (1000, "50")])
def test_a_longer_search_writes_its_snapshots_less_often(num_trials, seconds, monkeypatch):
    from distiltune.search.driver import experiment

    monkeypatch.delenv("TUNE_GLOBAL_CHECKPOINT_S", raising=False)
    plan: Any = SimpleNamespace(num_slots=1, num_trials=num_trials)
    with experiment._environment(plan):
        assert os.environ["TUNE_GLOBAL_CHECKPOINT_S"] == seconds
    assert "TUNE_GLOBAL_CHECKPOINT_S" not in os.environ


def test_a_trial_that_tune_gives_up_too_early_is_retried_but_not_for_ever(tmp_path, monkeypatch):
    """As when a worker dies while it is handed over: Tune counts one death twice."""
    from distiltune.search.driver import experiment, progress
    from distiltune.search.driver.callbacks import ProgressCallback

    trial: Any = SimpleNamespace(
        config={"number": 3}, num_failures=2, max_failures=2, pickled_error_file=None, last_result={}
    )
    fitted = []

    class Tuner:
        """Tune's tuner, which gives up on that trial each time."""

        def fit(self):
            [watch] = progress.running_searches
            fitted.append(watch.restored)
            callback = ProgressCallback(config(), 1)
            callback.on_trial_start(0, [trial], trial)
            callback.on_trial_error(0, [trial], trial)
            return "results"

    can_restore = iter([False, True, True])
    monkeypatch.setattr(experiment, "_can_restore", lambda *_: next(can_restore))
    monkeypatch.setattr(experiment, "_new_tuner", lambda *_: Tuner())
    monkeypatch.setattr(experiment, "_restored_tuner", lambda *_: Tuner())
    settings = SimpleNamespace(store=Store(str(tmp_path)), experiment="search")
    plan: Any = SimpleNamespace(settings=settings, num_slots=1, num_trials=1, config=config())
    ended = experiment.run_trials(plan, None, None)
    assert fitted == [False, True, True]
    assert (ended.grid, ended.num_ended) == ("results", 1)


def test_the_front_has_the_trials_that_none_dominates():
    objectives = [
        Objective(metric="validation_accuracy", mode="max"),
        Objective(metric="latency_ms", mode="min"),
    ]
    trials = [
        record(0, 0.9, 1.0),
        record(1, 0.95, 2.0),
        record(2, 0.94, 2.0),
        record(3, 0.9, 1.0),
        record(4, 0.8, 0.5),
    ]
    assert [trial.trial_id for trial in pareto_front(trials, objectives)] == ["t0", "t1", "t4"]


def test_the_choice_from_the_front_gives_a_stated_share_of_the_first_objective():
    both = {"objectives": [{"metric": "latency_ms", "mode": "min"}]}
    trials = [record(0, 0.950, 2.0), record(1, 0.946, 1.0), record(2, 0.90, 0.5)]
    choice = choose_trial(trials, config(**both))
    assert choice.best.trial_id == "t1"
    assert choice.front == ["t0", "t1", "t2"]
    assert choice.text == (
        "trial t1 of the 3 on the Pareto front: the best latency_ms (1) with validation_accuracy at most 0.005 "
        "from the best (0.9460, best 0.9500)"
    )
    assert choose_trial(trials, config(**both, choose=0.1)).best.trial_id == "t2"
    assert choose_trial(trials, config(**both, choose=0.0)).best.trial_id == "t0"


def test_constraints_take_precedence_over_the_metric():
    trials = [record(0, 0.99, 2.0), record(1, 0.95, 0.9), record(2, 0.94, 0.8)]
    choice = choose_trial(trials, config(constraints=["latency_ms <= 1.0"]))
    assert (choice.best.trial_id, choice.text) == ("t1", "")
    none = choose_trial(trials, config(constraints=["latency_ms <= 0.5", "validation_accuracy >= 0.9"]))
    assert none.best.trial_id == "t2"
    assert (
        none.text
        == "no trial satisfies every constraint; t2 is closest and violates latency_ms <= 0.5 (it has 0.8)"
    )


@pytest.mark.parametrize("text", ["latency_ms < 1", "1 >= latency_ms", "latency_ms <= fast"])
def test_a_bound_that_cannot_be_read_is_reported(text):
    with pytest.raises(ValueError, match=r"expected `metric <= number`|valid number"):
        config(constraints=[text])
