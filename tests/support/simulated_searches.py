"""Searches whose trials report metrics like a training's, in milliseconds instead of seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from simulated_trial import simulated_trial

SLOW_RATE, GOOD_RATE, RUINOUS_RATE = 1e-9, 5e-3, 1e30


def metrics_of(arguments: dict[str, Any], number: int, epoch: int) -> dict[str, float]:
    """Metrics of an epoch; as in a training, the learning rate determines whether it learns or diverges."""
    rate = arguments["learning_rate"]
    if rate > 1:
        raise ValueError(f"the training loss is nan (learning_rate {rate:g})")
    accuracy = 0.25 + (0.1 * epoch + 0.001 * number if rate > 1e-6 else 0.0)
    names = ("validation_accuracy", "validation_in_scope_accuracy", "validation_oos_recall")
    losses = ("train_loss", "train_cross_entropy", "train_distillation", "validation_loss")
    return {
        **dict.fromkeys(names, accuracy),
        **dict.fromkeys(losses, 1 - accuracy),
        "examples_per_second": 100.0,
    }


@contextmanager
def simulated_trials(epoch_seconds: float = 0.0) -> Iterator[None]:
    """Make every search of this process run simulated trials; a worker starts in a fraction of the time."""
    from ray import cloudpickle

    from distiltune.search.trial import run

    this = sys.modules[__name__]  # workers cannot import the tests
    cloudpickle.register_pickle_by_value(this)
    try:
        with patch.object(run, "run_trial", simulated_trial(epoch_seconds, metrics_of)):
            yield
    finally:
        cloudpickle.unregister_pickle_by_value(this)
