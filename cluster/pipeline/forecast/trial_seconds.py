"""Estimate the seconds of a trial from the steps of a few measured trials."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from ....search.space.space import TEXT_COUNTS
from ....search.student_arguments import STUDENT_KIND
from ....training.distillation.config import TrainingConfig
from ...specification.config import JobConfig
from .cost import BatchCost, tokens_of, training_batches
from .request import student_size


class TrialSeconds:
    """Estimates the seconds of a trial from measured trials, interpolated by the size of its student.

    Args:
        config: The specification.
        points: Results of ``measure_trials`` of each process.
        lengths: Tokens of each text, int[N], by kind of text.
    """

    def __init__(
        self, config: JobConfig, points: list[list[dict[str, Any]]], lengths: Mapping[str, Any]
    ) -> None:
        self._config = config
        self._lengths = {kind: np.asarray(each) for kind, each in lengths.items()}
        together = [each for process in points for each in process]
        sizes = sorted({each["size"] for each in together})
        self._sizes = np.array(sizes)
        self._costs = [_pooled([each for each in together if each["size"] == size]) for size in sizes]
        self._setup_s, self._evaluation_s, self._save_s = (
            [float(np.mean([each[name] for each in together if each["size"] == size])) for size in sizes]
            for name in ("setup_s", "evaluation_s", "save_s")
        )
        self._epochs: dict[tuple[Any, ...], Any] = {}
        self._seen: list[float] = []

    @cached_property
    def mean_epoch_s(self) -> float:
        """Mean time of an epoch in seconds, over the trials estimated so far."""
        return float(np.mean(self._seen)) if self._seen else 0.0

    def __call__(self, arguments: Mapping[str, Any], share: float) -> float:
        """Return the seconds of a trial that trains a share, 0 to 1, of its epochs."""
        training = self._training(arguments)
        size = student_size(arguments, self._config.search.space)
        tokens = self._tokens(arguments)
        cost = self._cost(size)
        epochs = float(arguments.get("num_train_epochs", training.num_train_epochs))
        steps = arguments.get("max_steps", training.arguments.get("max_steps", -1))
        if steps > 0:
            epochs = steps / len(tokens)
        num = max(1.0, np.ceil(share * epochs)) if epochs >= 1 else 1.0
        trained = cost.of(tokens) * min(num, epochs)
        self._seen.append(trained / min(num, epochs))
        each = self._at(size, self._evaluation_s) + self._at(size, self._save_s)
        return self._at(size, self._setup_s) + trained + num * each

    def _training(self, arguments: Mapping[str, Any]) -> TrainingConfig:
        return self._config.training.of_kind(arguments.get(STUDENT_KIND))

    def _tokens(self, arguments: Mapping[str, Any]) -> np.ndarray:
        training = self._training(arguments)
        given = {**training.arguments, **arguments}
        batch = given.get("per_device_train_batch_size", given.get("batch_size", training.batch_size))
        batch = int(batch) * int(given.get("gradient_accumulation_steps", 1))
        counts = tuple(arguments.get(name) for name in TEXT_COUNTS)
        strategy = given.get("train_sampling_strategy", "group_by_length")
        key = (batch, counts, strategy)
        if key not in self._epochs:
            limits = {kind: arguments.get(name) for name, kind in TEXT_COUNTS.items()}
            lengths = np.concatenate([each[: limits.get(kind)] for kind, each in self._lengths.items()])
            batches = training_batches(lengths, batch, training.seed, grouped=strategy == "group_by_length")
            num_processes = self._config.resources.trial.processes  # each has an equal part of every batch
            self._epochs[key] = tokens_of(batches, lengths) / num_processes
        return self._epochs[key]

    def _cost(self, size: float) -> BatchCost:
        above = int(np.searchsorted(self._sizes, size))
        if above == 0 or len(self._sizes) == 1:
            return self._costs[0]
        if above == len(self._sizes):
            return self._costs[-1]
        low, high = self._sizes[above - 1], self._sizes[above]
        return self._costs[above - 1].between(self._costs[above], float((size - low) / (high - low)))

    def _at(self, size: float, values: list[float]) -> float:
        return float(np.interp(size, self._sizes, values))


def _pooled(points: list[dict[str, Any]]) -> BatchCost:
    tokens = [each for point in points for each in point["tokens"]]
    return BatchCost.fit(tokens, [each for point in points for each in point["seconds"]])
