"""Checkpoints of the best epochs, the last one, and after some seconds; every epoch is reported nevertheless."""

from __future__ import annotations

import threading

import pytest
import torch
from local_trial import epochs_of, run_here
from safetensors.torch import load_file
from searches import TRAINING, trial_inputs

from distiltune.errors import StorageError

FIRST_IS_BEST = ("train_loss", "max")  # it falls from epoch to epoch
LAST_IS_BEST = ("train_loss", "min")
LONG_S = 1e6
ARGUMENTS = {"num_train_epochs": 5, "alpha": 0.5, "temperature": 2.0}


class StoppedError(BaseException):
    """As if the worker had been lost."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return trial_inputs(tmp_path_factory.mktemp("student") / "student")


def run(inputs, directory, metric=FIRST_IS_BEST, every_s=LONG_S, **options):
    return run_here(
        inputs, directory, ARGUMENTS, TRAINING, metric=metric, checkpoint_every_s=every_s, **options
    )


def written(directory, name="one"):
    """The epochs in the store, and which of them have a model and everything that resuming needs."""
    return {
        each.epoch: ("model.safetensors" in each.record["files"], "optimizer.pt" in each.record["files"])
        for each in epochs_of(directory, name)
    }


def losses(reported):
    return [each["train_loss"] for each in reported]


@pytest.mark.parametrize(
    ("metric", "every_s", "at_epoch_4"),
    [
        # The best keeps its model and what resuming needs, the others nothing but the last record.
        (FIRST_IS_BEST, LONG_S, {1: (True, True), 4: (False, False)}),
        (LAST_IS_BEST, LONG_S, {4: (True, True)}),
        (FIRST_IS_BEST, 0.0, {1: (True, False), 4: (True, True)}),
        (FIRST_IS_BEST, 1e-9, {1: (True, False), 4: (True, True)}),
    ],
)
def test_what_is_written_until_an_epoch(metric, every_s, at_epoch_4, inputs, tmp_path):
    def stop(metrics):
        if metrics["epoch"] == 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(inputs, tmp_path, metric, every_s, report=stop)
    assert written(tmp_path) == at_epoch_4


@pytest.mark.parametrize(("metric", "best"), [(FIRST_IS_BEST, 1), (LAST_IS_BEST, 5)])
def test_results_are_those_of_a_checkpoint_an_epoch(metric, best, inputs, tmp_path):
    every, some = run(inputs, tmp_path / "every", metric, 0.0), run(inputs, tmp_path / "some", metric)
    assert [each["epoch"] for each in some] == [1, 2, 3, 4, 5]
    assert losses(some) == losses(every)
    assert some[-1]["curve"] == every[-1]["curve"]
    weights = []
    for directory in (tmp_path / "every", tmp_path / "some"):
        [saved] = [each for each in epochs_of(directory) if each.epoch == best]
        weights.append(load_file(directory / saved.key / "model.safetensors"))
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize("stopped_at", [1, 3, 4])
def test_a_trial_resumes_after_its_last_checkpoint_and_ends_with_the_same_bits(stopped_at, inputs, tmp_path):
    whole = run(inputs, tmp_path / "whole")

    def stop(metrics):
        if metrics["epoch"] == stopped_at:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(inputs, tmp_path / "resumed", report=stop)
    resumed = run(inputs, tmp_path / "resumed")
    assert [each["epoch"] for each in resumed] == [1, 2, 3, 4, 5], "the first one is reported again"
    assert losses(resumed) == losses(whole)
    assert written(tmp_path / "resumed") == written(tmp_path / "whole")


def test_a_checkpoint_is_uploaded_while_the_next_epoch_trains(inputs, tmp_path, monkeypatch):
    """The upload of an epoch waits here for its report, which would otherwise wait for the upload."""
    from distiltune.search.trial import reporter  # loads Ray

    reported = [threading.Event() for _ in range(5)]
    upload = reporter.upload_files

    def upload_late(store, directory, key):
        epoch = int(key[-6:])
        assert reported[epoch - 1].wait(20) or epoch == 5, "the last one is written before its report"
        upload(store, directory, key)

    def report(metrics):
        reported[metrics["epoch"] - 1].set()

    reported[4].set()
    monkeypatch.setattr(reporter, "upload_files", upload_late)
    run(inputs, tmp_path, LAST_IS_BEST, report=report)
    assert written(tmp_path) == {5: (True, False)}


def test_an_upload_that_fails_fails_the_trial(inputs, tmp_path, monkeypatch):
    from distiltune.search.trial import reporter  # loads Ray

    def fail(store, directory, key):
        raise StorageError("the disk is full")

    monkeypatch.setattr(reporter, "upload_files", fail)
    with pytest.raises(StorageError, match="disk is full"):
        run(inputs, tmp_path)
    assert written(tmp_path) == {}
