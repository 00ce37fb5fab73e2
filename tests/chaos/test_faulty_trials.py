"""A trial that diverges, raises, or runs out of memory fails with its reason, and the search continues."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from checks import KEYS, STEPS_PER_EPOCH
from faults import Grounds
from faulty_workers import KILLED, OUT_OF_MEMORY, RAISES
from look import optuna_trials, shown_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

DIVERGES = 1e30
REASONS = {
    DIVERGES: "learning_rate 1e+30",
    RAISES: "ValueError: broken by the test",
    OUT_OF_MEMORY: "allocate memory",
    KILLED: "died",
}
GOOD = 5e-3
SPACE = {
    "num_train_epochs": 2,
    "learning_rate": {"type": "choice", "values": [GOOD, DIVERGES]},
    "weight_decay": {"type": "choice", "values": [0.0, RAISES, OUT_OF_MEMORY, KILLED]},
}
POINTS = [
    {"learning_rate": GOOD, "weight_decay": RAISES},
    {"learning_rate": GOOD, "weight_decay": 0.0},
    {"learning_rate": GOOD, "weight_decay": KILLED},
    {"learning_rate": DIVERGES, "weight_decay": 0.0},
    {"learning_rate": GOOD, "weight_decay": OUT_OF_MEMORY},
    {"learning_rate": GOOD, "weight_decay": 0.0},
]


def fault_of(parameters):
    """Return the first fault of a trial, or None."""
    if parameters["weight_decay"]:
        return parameters["weight_decay"]
    return DIVERGES if parameters["learning_rate"] == DIVERGES else None


def test_the_search_continues_without_the_trials_that_fail(tmp_path):
    search = {
        "num_trials": len(POINTS),
        "num_startup_trials": len(POINTS),
        "points": POINTS,
        "space": SPACE,
        "max_failed_trials": 4,
    }
    with ExitStack() as stack:
        grounds = Grounds(tmp_path, stack)
        with grounds.store() as store:
            found = grounds.finish(
                grounds.start(store, setup_hook="faulty_workers.install", **search), timeout_s=250
            )
            trials = found["outcome"]["trials"]
            faults = [fault_of(trial["parameters"]) for trial in trials]
            assert faults == list(map(fault_of, POINTS))
            for trial, fault in zip(trials, faults, strict=True):
                steps, end = shown_run(store, trial["trial_id"])
                if fault is None:
                    assert (trial["state"], trial["reason"], end) == ("finished", None, "finished")
                    assert steps == [STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH]
                    continue
                assert (trial["state"], end) == ("failed", "failed")
                assert REASONS[fault] in trial["reason"], trial["reason"]
                assert "\n" not in trial["reason"]
            # A process that is killed in its first second has sent no log lines.
            logged = {
                trial["trial_id"] for trial, fault in zip(trials, faults, strict=True) if fault != KILLED
            }
            assert logged <= set(store.names(KEYS["logs"]))
            states = sorted(trial.state.name for trial in optuna_trials(store))
            assert states == sorted("FAIL" if fault else "COMPLETE" for fault in faults)
