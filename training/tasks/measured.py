"""The metrics of a task by name, and the one that models are selected by.

Shapes: N texts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ...errors import InputError
from .metrics import LabelCounts, Metric, Mode, unknown_metric


class Measured(ABC):
    """The metrics of a task, whose predictions and labels are arrays, the first axis of which is texts.

    Attributes:
        metric_modes: The names of ``metrics``, each with whether higher or lower is better. Where the job names no
            metric, epochs, trials and variants are selected by the first.
        further_metrics: Further names that the job's ``metric`` may have, likewise with their modes.
        epoch_metrics: Those of them that are measured after every epoch, whatever the job's metric is.
        label_metrics: Metrics of one label, likewise with their modes; named ``KIND.LABEL``, as in ``recall.refund``.
    """

    metric_modes: ClassVar[Mapping[str, Mode]]
    further_metrics: ClassVar[Mapping[str, Mode]] = {}
    epoch_metrics: ClassVar[tuple[str, ...]] = ()
    label_metrics: ClassVar[Mapping[str, Mode]] = {}

    @abstractmethod
    def predictions(self, logits: Any) -> Any:
        """Return the predictions of logits[N, C]."""

    @abstractmethod
    def metrics(
        self, predictions: Any, labels: Any, out_of_scope_id: int | None = None
    ) -> dict[str, float | None]:
        """Measure predictions.

        Args:
            predictions: Predictions for N texts.
            labels: Labels of the same texts.
            out_of_scope_id: Class of the texts outside every label; None where there is none.

        Returns:
            The task's metrics by name, in the order of ``metric_modes``; None for one that is undefined on these texts.

        Raises:
            ValueError: There are no labels, or their number differs from that of the predictions.
        """

    def each_metric(self, predictions: Any, labels: Any) -> dict[str, float | None]:
        """Measure predictions in each of ``metric_modes``: implements ``metrics`` by means of ``metric``.

        Args:
            predictions: [N, ...].
            labels: [N, ...].

        Raises:
            ValueError: There are no labels, or their number differs from that of the predictions.
        """
        predictions, labels = np.asarray(predictions), np.asarray(labels)
        if labels.size == 0 or len(predictions) != len(labels):
            raise ValueError(
                f"{len(predictions)} predictions for {len(labels)} labels; the counts must be equal and above 0"
            )
        return {name: self.metric(name, ()).measure(predictions, labels) for name in self.metric_modes}

    @property
    def goal(self) -> tuple[str, Mode]:
        """The metric by which models are selected by default, and whether higher or lower is better."""
        return next(iter(self.metric_modes.items()))

    @property
    def metric_names(self) -> list[str]:
        """Names that the job's ``metric`` may have, without those of one label."""
        return [*self.metric_modes, *self.further_metrics]

    def metric_mode(self, name: str) -> Mode:
        """Return whether higher or lower is better in a metric; its label is not checked.

        Raises:
            InputError: There is no such metric; gives the nearest name and the accepted ones.
        """
        kind, _, label = name.partition(".")
        modes: dict[str, Mode] = {**self.metric_modes, **self.further_metrics}
        mode = self.label_metrics.get(kind) if label else modes.get(name)
        if mode is None:
            raise InputError(f"metric: {unknown_metric(name, self.metric_names, self.label_metrics)}")
        return mode

    def metric(self, name: str, label_names: Sequence[str], out_of_scope_id: int | None = None) -> Metric:
        """Return a metric by its name.

        Args:
            name: One of ``metric_names``, or of one label.
            label_names: The data's labels.
            out_of_scope_id: Class of the texts outside every label; None where there is none.

        Raises:
            InputError: There is no such metric, or no such label; gives the nearest name.
        """
        del label_names
        return Metric(
            name,
            self.metric_mode(name),
            lambda predictions, labels: self.metrics(predictions, labels, out_of_scope_id)[name],
        )

    def measured(
        self,
        predictions: Any,
        labels: Any,
        out_of_scope_id: int | None = None,
        *,
        also: Iterable[str] = (),
        label_names: Sequence[str] = (),
    ) -> dict[str, float | None]:
        """Measure predictions in the metrics of every epoch, and in others by name.

        Args:
            predictions: Predictions for N texts.
            labels: Labels of the same texts.
            out_of_scope_id: Class of the texts outside every label; None where there is none.
            also: Names of other metrics.
            label_names: The data's labels.

        Returns:
            Each metric's value by name; None for one that is undefined on these texts.

        Raises:
            InputError: There is no such metric, or no such label.
        """
        found, wanted = self.metrics(predictions, labels, out_of_scope_id), tuple(also)
        for name in dict.fromkeys((*self.epoch_metrics, *wanted)):
            if name in found:
                continue
            metric = self.metric(name, label_names, out_of_scope_id)
            if name in wanted or metric.of_counts is None:
                found[name] = metric.measure(predictions, labels)
            else:  # the same value, without loading scikit-learn
                found[name] = float(metric.of_counts(LabelCounts.of(predictions, labels)))
        return found

    def compute_metrics(self, evaluated: Any) -> dict[str, float]:
        """Compute the metrics of a ``transformers.EvalPrediction``, as a ``Trainer``'s ``compute_metrics``."""
        found = self.metrics(self.predictions(np.asarray(evaluated.predictions)), evaluated.label_ids)
        return {name: value for name, value in found.items() if value is not None}
