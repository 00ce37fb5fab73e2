"""One trial as a worker runs it, but in this process: its reports go to a list in place of Tune."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from searches import linked

from distiltune.search.trial.checkpoints import SavedEpoch, saved_epochs
from distiltune.search.trial.inputs import TrialInputs, TrialSettings
from distiltune.storage.store import Store
from distiltune.training.distillation.config import TrainingConfig

LAST = ("sparsity", "max")  # never falls, and of equal epochs the last is kept


def run_here(
    inputs: TrialInputs,
    directory: Path,
    arguments: dict[str, Any],
    training: TrainingConfig,
    *,
    name: str = "one",
    metric: tuple[str, str] = ("validation_accuracy", "max"),
    report: Callable[[dict[str, Any]], None] = lambda metrics: None,
    checkpoint_every_s: float = 0.0,
) -> list[dict[str, Any]]:
    """Run trial 0 of the search called ``name`` in a store, and return what it reported.

    Args:
        inputs: Its student and teacher are paths; they are linked into the store.
        directory: The store.
        arguments: Arguments of the trial.
        training: Arguments that are not searched.
        name: A trial of the same name is resumed.
        metric: Metric and direction by which the best epoch is kept; ``LAST`` keeps the last.
        report: Called with each report; may raise to interrupt the trial.
        checkpoint_every_s: As in the job.
    """
    from distiltune.search.trial import run

    inputs = linked(inputs, directory)
    store, reported = Store(str(directory)), []
    folders = f"{name}/search", f"{name}/tensorboard", f"{name}/logs"
    store.write(f"{name}/search/here", b"")  # the driver has made the folder
    settings = TrialSettings(
        training, *metric, store, *folders, 1, use_gpu=False, checkpoint_every_s=checkpoint_every_s
    )

    def add(metrics: dict[str, Any]) -> None:
        reported.append(metrics)
        report(metrics)

    with patch.object(run.tune, "report", add), patch.object(run, "_where", lambda: "here"):
        run.run_trial({"number": 0, "arguments": arguments}, inputs, settings)
    return reported


def epochs_of(directory: Path, name: str = "one") -> list[SavedEpoch]:
    """Return the checkpoints of the trial, in the order of their epochs; their keys are below the directory."""
    return sorted(saved_epochs(Store(str(directory)), f"{name}/search/0000"), key=lambda each: each.epoch)
