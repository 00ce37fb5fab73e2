"""A search that has ended is reopened: the same study continues, and its earlier results stay unchanged."""

from __future__ import annotations

import hashlib
import signal
from pathlib import Path

import pytest
from searches import search
from simulated_searches import GOOD_RATE, simulated_trials

from distiltune.search.config import SearchConfig
from distiltune.search.driver.reopening import ENDED, reopen, trials_cut_short
from distiltune.storage.store import Store

RATES = {"learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}}


def config(num_trials: int, epochs: int = 2, **values) -> SearchConfig:
    space = {"num_train_epochs": epochs, "weight_decay": 0.0, **RATES, **values.pop("space", {})}
    given = {"num_trials": num_trials, "num_startup_trials": 2, "seed": 4, "max_concurrent_trials": 1}
    return SearchConfig.model_validate({**given, **values, "space": space})


def hashes(directory: Path, trials) -> dict[str, str]:
    """SHA-256 of every file of the trials' checkpoints and of their results."""
    found = {}
    for trial in trials:
        folder = directory / "search" / trial.trial_id
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            if "checkpoint_" in str(path) or path.name == "result.json":
                found[str(path.relative_to(directory))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def reopened(directory: Path) -> None:
    reopen(Store(str(directory)), "search")


def test_more_trials_are_added_to_the_same_study(simulated, inputs, tmp_path):
    place, reported = tmp_path / "s", []
    first = search(config(2, epochs=1), inputs, place, journal="optuna.journal")
    before = hashes(place, first.trials)
    assert len(before) >= 4
    journal = (place / "optuna.journal").read_bytes()
    reopened(place)
    second = search(config(4, epochs=1), inputs, place, journal="optuna.journal", report=reported.append)
    assert second.trials[:2] == first.trials
    assert [trial.trial_id for trial in second.trials] == ["0000", "0001", "0002", "0003"]
    assert hashes(place, first.trials) == before
    assert [reported[-1].values[name] for name in ("num_trials", "total", "done", "failed")] == [4, 4, 4, 0]
    assert (place / "optuna.journal").read_bytes().startswith(journal)


@pytest.mark.slow
def test_an_extended_study_is_that_of_a_longer_search(simulated, inputs, tmp_path):
    place = tmp_path / "s"
    search(config(2), inputs, place)
    reopened(place)
    second = search(config(4), inputs, place)
    whole = search(config(4), inputs, tmp_path / "whole")
    assert [trial.parameters for trial in second.trials] == [trial.parameters for trial in whole.trials]
    assert second.best.trial_id == whole.best.trial_id
    assert search(config(4), inputs, place) == second, "it is only read"


@pytest.mark.slow
def test_an_extension_that_is_interrupted_is_resumed(ray_session, inputs, tmp_path):
    place = tmp_path / "s"

    def interrupt(progress):
        if progress.values["done"] == 3:
            signal.raise_signal(signal.SIGINT)

    with simulated_trials(epoch_seconds=0.05):
        first = search(config(2), inputs, place)
        before = hashes(place, first.trials)
        reopened(place)
        with pytest.raises(KeyboardInterrupt):
            search(config(5), inputs, place, report=interrupt)
        second = search(config(5), inputs, place)
    assert second.trials[:2] == first.trials
    assert hashes(place, first.trials) == before
    assert [trial.number for trial in second.trials] == list(range(5))
    assert {trial.state for trial in second.trials} == {"finished"}


@pytest.mark.slow
def test_an_extension_that_has_not_begun_changes_nothing(simulated, inputs, tmp_path):
    """As if the process was killed right after the search was reopened, and the run is resumed without changes."""
    place = tmp_path / "s"
    first = search(config(2), inputs, place)
    reopened(place)
    assert search(config(2), inputs, place) == first
    reopened(place)
    reopened(place)
    assert len(search(config(3), inputs, place).trials) == 3


@pytest.mark.slow
def test_a_larger_budget_continues_a_search_that_a_target_ended(simulated, inputs, tmp_path):
    place = tmp_path / "s"
    points = [{"learning_rate": GOOD_RATE}]
    low = {"target_value": 0.3}
    first = search(config(3, points=points, budget=low), inputs, place)
    assert first.ended_by is not None
    assert len(first.trials) < 3
    before = hashes(place, first.trials)
    reopened(place)
    again = search(config(3, points=points, budget=low), inputs, place)
    assert again.ended_by is not None, "the same budget ends it at once"
    reopened(place)
    second = search(config(3, points=points, budget={"target_value": 0.99}), inputs, place)
    assert second.ended_by is None
    assert len(second.trials) > len(first.trials)
    assert second.trials[-1].number == 2
    names = {trial.trial_id: trial for trial in second.trials}
    for trial in first.trials:
        assert (names[trial.trial_id].state, names[trial.trial_id].reason) == (trial.state, trial.reason)
    assert hashes(place, first.trials) == before


def test_trials_that_a_budget_ended_are_recorded(tmp_path):
    store = Store(str(tmp_path))
    for name in ("0000", "0001", "0002"):
        store.write_json(f"search/{name}/params.json", {})
    assert trials_cut_short(store, "search") is None
    reopen(store, "search")
    assert trials_cut_short(store, "search") == {}
    store.write_json(f"search/{ENDED}", {"ended_by": "its limit", "ended_before": ["0000", "0002"]})
    reopen(store, "search")
    reopen(store, "search")
    assert trials_cut_short(store, "search") == {"0001": "its limit"}
    assert store.read_json(f"search/{ENDED}") is None
