"""With one trial at a time, a search killed repeatedly gives the results of an undisturbed one, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import ExitStack, suppress

import pytest
from checks import weights_of
from faults import DriverKilled

from distiltune.search.trial.checkpoints import find_checkpoint, saved_epochs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

ONE_AT_A_TIME = {"max_concurrent_trials": 1, "num_trials": 6, "num_startup_trials": 2}


def results_of(found):
    """Return the results of a search's trials, without names and times, which always differ."""
    keys = ("number", "state", "parameters", "best_epoch")
    return [
        {key: trial[key] for key in keys} | {"accuracy": trial["metrics"]["validation_accuracy"]}
        for trial in found["outcome"]["trials"]
    ]


def test_killed_and_resumed_gives_the_same_suggestions_and_the_same_weights(tmp_path):
    dice = random.Random(11)
    with ExitStack() as stack:
        grounds = DriverKilled(tmp_path, stack)
        with grounds.store() as store:
            began = time.monotonic()
            whole = grounds.finish(grounds.start(store, **ONE_AT_A_TIME))
            duration_s = time.monotonic() - began
            weights = weights_of(store, whole["outcome"]["trials"])
        with grounds.store() as store:
            for number in range(3):
                driver = grounds.start(store, **ONE_AT_A_TIME)
                driver.wait_began()
                time.sleep(duration_s * (0.25 + dice.random() / 4))
                if number == 1:  # a worker before the driver
                    for worker in grounds.cluster.workers():
                        with suppress(ProcessLookupError):
                            os.kill(worker, signal.SIGKILL)
                    time.sleep(dice.random())
                driver.kill()
            disturbed = grounds.finish(grounds.start(store, **ONE_AT_A_TIME))
            assert results_of(disturbed) == results_of(whole)
            assert weights_of(store, disturbed["outcome"]["trials"]) == weights
            for trial in disturbed["outcome"]["trials"]:
                last = find_checkpoint(saved_epochs(store, f"runs/a/search/{trial['trial_id']}"))
                assert last is not None
                assert last.epoch == trial["parameters"]["num_train_epochs"]
    assert all(weights.values())
    assert len(set(weights.values())) == ONE_AT_A_TIME["num_trials"]
