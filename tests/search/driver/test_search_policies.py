"""Early stopping, budgets, failures, objectives and students of a search: real Ray and Tune, simulated trials."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from searches import search
from simulated_searches import GOOD_RATE, RUINOUS_RATE, SLOW_RATE

from distiltune.errors import ConfigError, RunFailedError
from distiltune.search.config import SearchConfig
from distiltune.search.space.students import Student

pytestmark = pytest.mark.usefixtures("simulated")


def config(**values) -> SearchConfig:
    space = {"num_train_epochs": 4, "weight_decay": 0.0, "temperature": 4, **values.pop("space", {})}
    return SearchConfig.model_validate(
        {"num_startup_trials": 2, "seed": 4, "max_concurrent_trials": 1, **values, "space": space}
    )


def rates(*values: float) -> dict:
    """The configuration of a search that tries these learning rates in this order."""
    return {
        "num_trials": len(values),
        "space": {"learning_rate": {"type": "choice", "values": sorted(set(values))}, "alpha": 0.5},
        "points": [{"learning_rate": value} for value in values],
    }


def journal_of(path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(path)))
    [name] = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


def ended_well(directory) -> bool:
    """Whether HParams shows a trial as ended, and not as running."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import api_pb2, metadata

    api: Any = api_pb2  # generated without type stubs
    events = EventAccumulator(str(directory)).Reload()
    content = events.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
    return metadata.parse_session_end_info_plugin_data(content).status == api.Status.STATUS_SUCCESS


def test_a_bad_trial_is_stopped_early_and_reported_as_pruned(inputs, tmp_path):
    reported = []
    outcome = search(
        config(**rates(GOOD_RATE, SLOW_RATE, GOOD_RATE), scheduler="asha"),
        inputs,
        tmp_path / "s",
        journal="optuna.journal",
        report=reported.append,
    )
    assert [trial.state for trial in outcome.trials] == ["finished", "pruned", "finished"]
    bad = outcome.trials[1]
    assert bad.reason == "stopped early after 25% of its schedule"
    assert [progress for progress, _ in bad.curve] == [0.25]
    assert outcome.best.trial_id in (outcome.trials[0].trial_id, outcome.trials[2].trial_id)
    assert [reported[-1].values[name] for name in ("done", "pruned", "failed", "running")] == [3, 1, 0, 0]
    assert ended_well(tmp_path / "s" / "tensorboard" / bad.trial_id)
    study = journal_of(tmp_path / "s" / "optuna.journal")
    assert [trial.state for trial in study.trials] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.COMPLETE,
    ]
    assert [trial.user_attrs["trial_id"] for trial in study.trials] == [
        each.trial_id for each in outcome.trials
    ]
    assert study.trials[1].intermediate_values == {25: bad.curve[0][1]}
    assert study.best_value == outcome.best.metrics["validation_accuracy"]


@pytest.mark.slow
def test_a_target_ends_the_search_and_a_second_call_only_reads_it(inputs, tmp_path):
    wanted = config(**rates(*[GOOD_RATE] * 6), budget={"target_value": 0.3})
    outcome = search(wanted, inputs, tmp_path / "s")
    assert outcome.ended_by is not None
    assert "reached its target 0.3" in outcome.ended_by
    assert len(outcome.trials) < 6
    assert outcome.best.metrics["validation_accuracy"] >= 0.3
    again = search(wanted, inputs, tmp_path / "s")
    assert again == outcome


@pytest.mark.parametrize(
    ("budget", "reason", "num_trials"),
    [
        pytest.param({"patience": 2}, "2 .*validation_accuracy", 4, marks=pytest.mark.slow),
        ({"wall_time_s": 1e-3}, ".*0.001 s", None),
    ],
)
def test_patience_and_time_end_the_search(inputs, tmp_path, budget, reason, num_trials):
    """A failed trial does not count towards the patience."""
    wanted = config(**rates(SLOW_RATE, RUINOUS_RATE, SLOW_RATE, SLOW_RATE, GOOD_RATE), budget=budget)
    if num_trials is None:
        with pytest.raises(RunFailedError, match=f"ended before any trial had finished an epoch: {reason}"):
            search(wanted, inputs, tmp_path / "s")
        return
    outcome = search(wanted, inputs, tmp_path / "s")
    assert outcome.ended_by is not None and re.search(reason, outcome.ended_by)
    ended = [trial.state for trial in outcome.trials if not re.search(reason, trial.reason or "")]
    assert ended == ["finished", "failed", "finished", "finished"][:num_trials]


@pytest.mark.slow
def test_too_many_failed_trials_end_the_search_with_a_summary(inputs, tmp_path):
    wanted = config(**rates(GOOD_RATE, *[RUINOUS_RATE] * 6), max_failed_trials=1)
    with pytest.raises(
        RunFailedError, match=r"2 trials failed, search\.max_failed_trials allows 1: "
    ) as caught:
        search(wanted, inputs, tmp_path / "s")
    assert "learning_rate 1e+30" in str(caught.value)
    with pytest.raises(RunFailedError, match=r"^2 trials failed, "):  # asked again: no more than those
        search(wanted, inputs, tmp_path / "s")


@pytest.fixture
def students(inputs, tmp_path):
    """Two students of one layer each, one of which is declared slow."""
    keys = {}
    for name, latency in (("student.layers=[0]", 0.4), ("student.layers=[1]", 1.6)):
        keys[name] = Student("student", {"latency_ms": latency, "num_parameters": 1.0})
    return replace(inputs, students={**inputs.students, **keys})


LAYERS = {"student.layers": {"type": "choice", "values": [[0], [1]]}, "learning_rate": GOOD_RATE}


@pytest.mark.slow
def test_several_objectives_give_a_front_and_a_stated_choice(students, tmp_path):
    wanted = config(
        num_trials=4,
        space=LAYERS,
        objectives=[{"metric": "latency_ms", "mode": "min"}],
        choose=1.0,
        points=[{"student.layers": [1]}, {"student.layers": [0]}],
    )
    outcome = search(wanted, students, tmp_path / "s", journal="optuna.journal")
    latencies = [trial.metrics["latency_ms"] for trial in outcome.trials]
    assert latencies[:2] == [1.6, 0.4]
    assert outcome.best.metrics["latency_ms"] == 0.4
    assert outcome.best.trial_id in outcome.front
    assert outcome.choice.startswith(
        f"trial {outcome.best.trial_id} of the {len(outcome.front)} on the Pareto front"
    )
    study = journal_of(tmp_path / "s" / "optuna.journal")
    assert [trial.values[1] for trial in study.trials] == latencies


@pytest.mark.slow
def test_a_student_that_misses_a_bound_is_never_trained(students, tmp_path):
    wanted = config(num_trials=3, space=LAYERS, constraints=["latency_ms <= 1.0"])
    outcome = search(wanted, students, tmp_path / "s")
    assert [trial.parameters["student.layers"] for trial in outcome.trials] == [[0]] * 3
    tighter = config(num_trials=3, space=LAYERS, constraints=["latency_ms <= 0.1"])
    with pytest.raises(ConfigError, match=r"search\.constraints: .*latency_ms <= 0\.1"):
        search(tighter, students, tmp_path / "t")
