"""The trials of a large study that a sampler sees: a limited, reproducible selection that includes the best."""

from __future__ import annotations

import pickle

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from distiltune.search.study.modelled_trials import ModelledTrials, best_trials

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = {"x": FloatDistribution(0.0, 1.0)}
MOST = 30
MAXIMIZE, MINIMIZE = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE


def trial(*values: float, state: TrialState = TrialState.COMPLETE, **more):
    complete = {"values": list(values)} if state == TrialState.COMPLETE else {}
    return create_trial(params={"x": 0.5}, distributions=SPACE, state=state, **complete, **more)


def study_with(values, *, directions=("maximize",), most=MOST, **more) -> optuna.Study:
    study = optuna.create_study(directions=list(directions), storage=ModelledTrials(most), **more)
    study.add_trials([trial(*np.atleast_1d(each).astype(float).tolist()) for each in values])
    return study


def numbers(study: optuna.Study) -> list[int]:
    return [each.number for each in study.get_trials(deepcopy=False)]


@pytest.mark.parametrize("num", [0, 1, MOST - 1, MOST])
def test_a_small_study_is_shown_as_a_whole(num):
    study = study_with(range(num))
    study.tell(study.ask(SPACE), state=TrialState.FAIL)
    study.ask(SPACE)
    assert numbers(study) == list(range(num + 2))
    assert [each.state for each in study.trials[num:]] == [TrialState.FAIL, TrialState.RUNNING]


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("num", [MOST + 1, 200, 999])
def test_of_a_large_study_the_best_are_shown_and_others_from_all_of_it(num, direction):
    values = np.random.default_rng(num).permutation(num).astype(float)
    study = study_with(values, directions=(direction,))
    shown = numbers(study)
    assert shown == sorted(set(shown))
    assert MOST - 3 <= len(shown) <= MOST
    best = np.argsort(-values if direction == "maximize" else values)[: MOST // 10]
    assert set(best.tolist()) <= set(shown)
    assert shown[0] == 0
    assert max(np.diff(shown)) <= 0.15 * num + 2


def test_the_others_are_an_even_sample_of_the_whole_search():
    """If TPE modelled too many of the best as poor, it would avoid their neighbourhood."""
    values = np.random.default_rng(3).permutation(1000).astype(float)
    shown = np.array([values[number] for number in numbers(study_with(values, most=300))])
    good = np.sort(shown)[-25:]
    assert good.tolist() == list(range(975, 1000))
    others = np.sort(shown)[:-25]
    assert 260 <= len(others) <= 275
    for share in (0.5, 0.9):  # as in all of them
        assert abs((others < 975 * share).mean() - share) < 0.06


def test_trials_that_have_not_ended_are_all_shown_and_failed_ones_are_not():
    study = study_with(range(100))
    running = [study.ask(SPACE) for _ in range(3)]
    study.enqueue_trial({"x": 0.25})
    study.tell(running[0], state=TrialState.FAIL)
    assert {101, 102, 103} <= set(numbers(study)) and 100 not in numbers(study)
    states = {each.number: each.state for each in study.get_trials(deepcopy=False)}
    assert [states[number] for number in (101, 102, 103)] == [TrialState.RUNNING] * 2 + [TrialState.WAITING]
    only = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    assert [each.number for each in only] == [101, 102]
    assert study.ask(SPACE).params == {"x": 0.25}


def test_the_selection_survives_pickling_and_deep_copies_are_copies():
    study = study_with(range(100))
    again = pickle.loads(pickle.dumps(study))
    for each in (study, again):
        each.add_trials([trial(float(value)) for value in (7.5, 99.5, 3.5)])
    assert numbers(again) == numbers(study)
    study.trials[0].params["x"] = 0.75
    assert study.get_trials(deepcopy=False)[0].params["x"] == 0.5


def test_the_best_are_those_that_tpe_prefers():
    later, sooner = ({"intermediate_values": {step: 0.9}} for step in (50, 25))
    trials = [
        trial(0.99, constraints={"a": 0.5}),
        trial(0.1),
        trial(state=TrialState.PRUNED, **sooner),
        trial(0.4, constraints={"a": -1.0, "b": 0.0}),
        trial(state=TrialState.PRUNED, **later),
        trial(0.98, constraints={"a": 0.1, "b": -3.0}),
        trial(state=TrialState.PRUNED),
    ]
    ordered = best_trials(trials, [MAXIMIZE], 7)
    assert [trials.index(each) for each in ordered] == [3, 1, 4, 2, 6, 5, 0]
    assert best_trials(trials, [MAXIMIZE], 3) == ordered[:3]
    assert best_trials([], [MINIMIZE], 3) == []


def test_with_several_objectives_the_first_fronts_are_shown():
    values = [(0.9, 9.0), (0.5, 1.0), (0.8, 9.5), (0.7, 4.0), (0.4, 0.9), (0.3, 5.0), (0.9, 9.1)]
    trials = [trial(*each) for each in values]
    found = [trials.index(each) for each in best_trials(trials, [MAXIMIZE, MINIMIZE], 6)]
    assert set(found[:4]) == {0, 1, 3, 4}
    assert set(found[4:]) == {5, 6}
    # Of a front that does not fit, both ends are kept.
    ends = [trials.index(each) for each in best_trials(trials, [MAXIMIZE, MINIMIZE], 2)]
    assert set(ends) == {0, 4}


def test_a_front_stays_visible_in_a_large_study():
    front = [(place / 9, place / 9) for place in range(10)]
    poor = [(0.0, 2.0 + place) for place in range(300)]
    study = study_with([*front[:5], *poor, *front[5:], *poor], directions=("maximize", "minimize"), most=100)
    assert {0, 1, 2, 3, 4, 305, 306, 307, 308, 309} <= set(numbers(study))


@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
def test_tpe_reads_no_more_trials_than_it_is_shown(several, monkeypatch):
    """Fails if Optuna reads a study's trials in another way; the time of a search would then not be linear."""
    directions = ("maximize", "minimize") if several else ("maximize",)
    values = [(number % 7, number % 5)[: len(directions)] for number in range(500)]
    sampler = optuna.samplers.TPESampler(seed=1)
    study = study_with(values, directions=directions, sampler=sampler)
    read: list[int] = []
    shown = ModelledTrials.get_all_trials

    def counted(self, study_id, deepcopy=True, states=None):
        found = shown(self, study_id, deepcopy, states)
        read.append(len(found))
        return found

    monkeypatch.setattr(ModelledTrials, "get_all_trials", counted)
    study.ask(SPACE)
    assert MOST / 2 < max(read) <= MOST + 1
