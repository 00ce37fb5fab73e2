"""The searcher by itself: driven as by Tune, and restored from snapshots whose files do not match."""

from __future__ import annotations

from types import SimpleNamespace

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState

from distiltune.search.config import Constraint, Objective, SearchConfig
from distiltune.search.parameters import Choice, Fixed, FloatRange, IntRange

SPACE = {"x": FloatRange(low=0.0, high=1.0), "k": IntRange(low=1, high=9), "fixed": Fixed(value=3)}


def config(**values) -> SearchConfig:
    return SearchConfig.model_validate(values)


class Search:
    """Drives the searcher as Tune does, with trials that end in an order of their own."""

    def __init__(
        self,
        *,
        window: int,
        max_concurrent: int = 2,
        num_startup_trials: int = 3,
        num_trials: int = 12,
        **more,
    ) -> None:
        from distiltune.search.study.searcher import StudySearcher

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.max_concurrent = max_concurrent
        self.num_finished: list[int] = []  # before each suggestion
        self.searcher = StudySearcher(
            SPACE,
            objectives=[Objective(metric="value", mode="max")],
            seed=7,
            num_trials=num_trials,
            num_startup_trials=num_startup_trials,
            window=window,
            max_concurrent=max_concurrent,
            **more,
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
                trials = self.searcher.study.trials
                self.num_finished.append(sum(trial.state.is_finished() for trial in trials))
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
def test_a_suggestion_uses_the_results_before_its_window_and_no_others(window, max_concurrent):
    def run(values: dict[int, float]) -> list[dict]:
        return Search(window=window, max_concurrent=max_concurrent).run([0], values=values)

    plain = run({})
    at_once = 0
    for trial in range(12 - window):
        # The best and the worst of all: whatever the result was, one of them differs from it.
        changed = [run({trial: value}) for value in (1.0, -9.0)]
        first = min(n for n in range(12) if any(each[n] != plain[n] for each in changed))
        assert first >= max(3, trial + window)
        at_once += first == max(3, trial + window)
    # A different result need not change the very next suggestion, but mostly does.
    assert at_once >= (12 - window) / 2


def test_with_one_trial_at_a_time_it_is_plain_optuna():
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
    from distiltune.search.study.searcher import num_parallel_trials, window_of

    search_config = config(max_concurrent_trials=given)
    at_a_time = num_parallel_trials(search_config, num_slots)
    window = window_of(20, at_a_time)
    search = Search(window=window, max_concurrent=at_a_time, num_startup_trials=10, num_trials=20)
    search.run([3, 0, 7, 1], num_trials=20)
    assert at_a_time == min(num_slots, given or 5)
    assert search.num_finished[-1] >= 10
    assert at_a_time <= window <= 1.5 * at_a_time


def test_random_trials_use_all_resources():
    from distiltune.search.study.searcher import num_parallel_trials

    assert num_parallel_trials(config(num_trials=10), 16) == 16
    assert num_parallel_trials(config(num_trials=11), 16) == 2
    assert num_parallel_trials(config(num_trials=10, max_concurrent_trials=4), 16) == 4


@pytest.mark.parametrize(
    ("num_trials", "num_slots", "at_once"), [(20, 8, 8), (20, 64, 10), (200, 64, 64), (11, 1, 1), (12, 3, 3)]
)
def test_on_gpus_half_of_the_trials_follow_the_slots(num_trials, num_slots, at_once):
    from distiltune.search.study.searcher import num_parallel_trials, window_of

    search_config = config(num_trials=num_trials)
    found = num_parallel_trials(search_config, num_slots, on_gpus=True)
    assert found == at_once >= num_parallel_trials(search_config, num_slots)
    assert window_of(num_trials, found) <= max(found, num_trials // 2)
    limited = config(num_trials=num_trials, max_concurrent_trials=2)
    assert num_parallel_trials(limited, num_slots, on_gpus=True) == min(2, num_slots)


def searcher_of(**more):
    return Search(window=1, max_concurrent=4, **more).searcher


def report(value: float, progress: float = 1.0, **more) -> dict:
    return {"value": value, "progress": progress, "curve": [[progress, value]], **more}


def end(searcher, trial_id: str, value: float, progress: float = 1.0) -> None:
    """End a trial as Tune does, which does not pass on the last report of a stopped trial."""
    result = report(value, progress)
    if progress == 1:
        searcher.on_trial_result(trial_id, result)
    searcher.on_trial_complete(trial_id, result)


def test_it_is_finished_when_all_trials_have_ended():
    from ray.tune.search import Searcher

    searcher = searcher_of(num_trials=2)
    assert [searcher.suggest(f"t{n}")["number"] for n in range(2)] == [0, 1]
    end(searcher, "t1", 0.5)
    assert searcher.suggest("t2") is None
    end(searcher, "t0", 0.5)
    assert searcher.suggest("t2") == Searcher.FINISHED


def test_a_stopped_trial_is_passed_as_pruned_and_a_failed_one_as_failed():
    searcher = searcher_of(num_startup_trials=4)
    for trial_id in ("full", "stopped", "failed", "lost"):
        searcher.suggest(trial_id)
    end(searcher, "full", 0.5)
    searcher.on_trial_result("stopped", {"value": 0.2, "progress": 0.25, "curve": [[0.25, 0.2]]})
    searcher.on_trial_complete("stopped", {"value": 0.3, "progress": 0.5, "curve": [[0.25, 0.2], [0.5, 0.3]]})
    searcher.on_trial_result("failed", report(0.0, failure="the loss is nan"))
    searcher.on_trial_complete("failed", report(0.0, failure="the loss is nan"))
    searcher.on_trial_complete("lost", None, error=True)
    searcher.suggest("next")
    trials = searcher.study.trials
    states = [trial.state for trial in trials]
    assert states[:4] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL]
    assert trials[0].values == [0.5]
    assert trials[1].intermediate_values == {25: 0.2, 50: 0.3}
    assert trials[1].user_attrs["trial_id"] == "0001"


def test_points_are_tried_first_and_what_they_leave_out_is_sampled():
    searcher = searcher_of(points=[{"x": 0.25, "k": 2}, {"k": 9}])
    first, second, third = (searcher.suggest(f"t{n}")["arguments"] for n in range(3))
    assert first == {"x": 0.25, "k": 2, "fixed": 3}
    assert second["k"] == 9
    assert 0 <= second["x"] <= 1
    assert third not in (first, second)


@pytest.mark.parametrize("seed", range(6))
def test_a_point_keeps_its_values_where_its_student_violates_a_bound(seed):
    from distiltune.search.space.students import student_name
    from distiltune.search.study.searcher import StudySearcher

    filters, size = "student.num_filters", "student.hidden_size"
    fitting = [{filters: 64, size: 32}, {filters: 64, size: 128}, {filters: 512, size: 32}]
    points = [{"alpha": 0.25}, {"alpha": 0.5}, {"alpha": 0.75, filters: 512}, {"alpha": 0.9, size: 128}]
    searcher = StudySearcher(
        {
            "alpha": FloatRange(low=0.0, high=1.0),
            filters: Choice(values=[64, 512]),
            size: Choice(values=[32, 128]),
        },
        objectives=[Objective(metric="value", mode="max")],
        students={student_name(each): each for each in fitting},
        seed=seed,
        num_trials=9,
        num_startup_trials=9,
        window=1,
        max_concurrent=9,
        points=points,
    )
    tried = [searcher.suggest(f"t{number}")["arguments"] for number in range(len(points))]
    in_order = sorted(tried, key=lambda each: each["alpha"])
    assert [{**each, **point} for each, point in zip(in_order, points, strict=True)] == in_order
    assert all({name: each[name] for name in (filters, size)} in fitting for each in tried)


def test_it_learns_from_a_former_search():
    known = [
        optuna.trial.create_trial(
            params={"x": n / 10, "k": 5}, distributions=DISTRIBUTIONS, values=[-((n / 10 - 0.3) ** 2)]
        )
        for n in range(10)
    ]
    alone, taught = searcher_of(num_startup_trials=4), searcher_of(num_startup_trials=4, known=known)
    near = [abs(each.suggest(f"t{n}")["arguments"]["x"] - 0.3) for each in (alone, taught) for n in range(4)]
    assert sum(near[4:]) < sum(near[:4])


DISTRIBUTIONS = {"x": FloatDistribution(0.0, 1.0), "k": IntDistribution(1, 9)}


def test_several_objectives_are_passed_together_and_students_share_metrics():
    from distiltune.search.study.searcher import StudySearcher

    searcher = StudySearcher(
        {"x": FloatRange(low=0.0, high=1.0), "student.num_layers": Choice(values=[1, 2])},
        objectives=[Objective(metric="value", mode="max"), Objective(metric="latency_ms", mode="min")],
        constraints=[Constraint(metric="value", sense=">=", bound=0.5)],
        student_metrics={
            "student.num_layers=1": {"latency_ms": 0.3},
            "student.num_layers=2": {"latency_ms": 0.5},
        },
        seed=7,
        num_trials=9,
        num_startup_trials=1,
        window=1,
        max_concurrent=1,
    )
    layers = []
    for number in range(8):
        layers.append(searcher.suggest(f"t{number}")["arguments"]["student.num_layers"])
        end(searcher, f"t{number}", number / 10)
    searcher.suggest("last")
    passed = searcher.study.get_trials(states=[TrialState.COMPLETE])
    assert [trial.values for trial in passed] == [
        [number / 10, 0.3 if layer == 1 else 0.5] for number, layer in enumerate(layers)
    ]
    assert [trial.constraints for trial in passed] == [
        {"value >= 0.5": pytest.approx(0.5 - number / 10)} for number in range(8)
    ]


# Snapshots: Tune writes the searcher's file and the trials' one after the other.


def tune_trial(trial_id: str, suggested: dict, status: str = "RUNNING", last: dict | None = None):
    return SimpleNamespace(trial_id=trial_id, config=suggested, status=status, last_result=last or {})


def restored(searcher, tmp_path):
    searcher.save(str(tmp_path / "state"))
    again = searcher_of()
    again.restore(str(tmp_path / "state"))
    return again


def test_a_searcher_older_than_the_trials_catches_up(tmp_path):
    searcher = searcher_of()
    known = [tune_trial("t0", searcher.suggest("t0"))]
    old = restored(searcher, tmp_path)
    end(searcher, "t0", 0.7)
    known[0].status, known[0].last_result = "TERMINATED", report(0.7)
    known.append(tune_trial("t1", searcher.suggest("t1")))
    old.reconcile(known)
    assert old.suggest("t2") == searcher.suggest("t2")
    for each in (old, searcher):
        end(each, "t1", 0.1)
        end(each, "t2", 0.2)
    assert old.suggest("t3") == searcher.suggest("t3")
    assert [trial.value for trial in old.study.trials[:3]] == [0.7, 0.1, 0.2]


def test_a_searcher_newer_than_the_trials_suggests_the_lost_ones_again(tmp_path):
    searcher = searcher_of(num_trials=4)
    suggested = [searcher.suggest(f"t{n}") for n in range(3)]
    end(searcher, "t2", 0.9)
    new = restored(searcher, tmp_path)
    new.reconcile([tune_trial("t0", suggested[0]), tune_trial("t1", suggested[1], "PENDING")])
    assert new.suggest("again") == suggested[2]
    for trial_id in ("t0", "t1", "again"):
        end(new, trial_id, 0.5)
    assert new.suggest("t3")["number"] == 3
    end(new, "t3", 0.5)
    assert new.suggest("t4") == "FINISHED"


def test_a_second_kill_before_the_lost_ones_were_suggested_again_duplicates_none(tmp_path):
    searcher = searcher_of(num_trials=4)
    suggested = [searcher.suggest(f"t{n}") for n in range(3)]
    end(searcher, "t2", 0.9)
    new = restored(searcher, tmp_path)
    known = [tune_trial("t0", suggested[0])]
    new.reconcile(known)
    assert new.suggest("again1") == suggested[1]
    newer = restored(new, tmp_path)
    newer.reconcile([*known, tune_trial("again1", suggested[1])])
    end(newer, "t0", 0.5)
    assert newer.suggest("again2") == suggested[2]
    for trial_id in ("again1", "again2"):
        end(newer, trial_id, 0.5)
    assert newer.suggest("t3")["number"] == 3
    end(newer, "t3", 0.5)
    assert newer.suggest("t4") == "FINISHED"


def test_a_trial_that_failed_and_is_retried_counts_when_it_ends(tmp_path):
    searcher = searcher_of(num_startup_trials=1)
    suggested = searcher.suggest("t0")
    searcher.on_trial_complete("t0", None, error=True)
    again = restored(searcher, tmp_path)
    again.reconcile([tune_trial("t0", suggested, "PENDING")])
    assert again.suggest("t1") is None  # it waits for the first one
    end(again, "t0", 0.4)
    assert again.suggest("t1")["number"] == 1
    assert again.study.trials[0].value == 0.4
