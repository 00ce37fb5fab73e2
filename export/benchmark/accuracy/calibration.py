"""Measure how well a model's probabilities are calibrated: the expected error before and after its temperature."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ...out_of_scope.answers import probabilities
from ...out_of_scope.thresholds import reliability
from ...runtime.scores import SCORES
from ...temperature import fit_temperature
from ..targets.outputs import SPLITS, ScoredModel

if TYPE_CHECKING:
    from ....training.tasks import Task
    from ....training.tasks.spans.decoding import SpanLogits


def calibration_of_labels(
    logits: np.ndarray, labels: np.ndarray, temperature: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure how well the probabilities of all labels of all texts are calibrated, as ``calibration_of_classes``."""
    right = (labels > 0).ravel()

    def scored(divisor: float) -> tuple[np.ndarray, np.ndarray]:
        return (0.5 + 0.5 * np.tanh(0.5 * logits.astype(np.float64) / divisor)).ravel(), right

    return _before_and_after(temperature, scored)


def calibration_of_answers(
    outputs: SpanLogits, threshold: float | None, temperature: float, right: np.ndarray
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure how well the probabilities of answers are calibrated, as ``calibration_of_classes``.

    Args:
        outputs: Logits of N questions.
        threshold: Threshold of no answer.
        temperature: Temperature of the model.
        right: bool[N], whether each answer is exactly right.
    """
    return _before_and_after(temperature, lambda divisor: (probabilities(outputs, threshold, divisor), right))


def calibration_of_words(
    model: ScoredModel, texts: dict[str, Any], columns: list[int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure how well the probabilities of the words' tags are calibrated, as ``calibration_of_classes``."""
    given = {split: model.logits[split].with_columns(columns) for split in SPLITS}
    labels = {split: given[split].labels(texts[f"{split}_labels"]) for split in SPLITS}
    temperature = model.temperature
    if temperature is None:
        temperature = fit_temperature(given["validation"].logits.values, labels["validation"])
    logits = given["test"].logits.values

    def scored(divisor: float) -> tuple[np.ndarray, np.ndarray]:
        scaled = logits.astype(np.float64) / divisor
        # Tags with equal logits are equally probable.
        right = scaled[np.arange(len(scaled)), labels["test"]] >= scaled.max(axis=1)
        return SCORES["max_softmax"](scaled), right

    return _before_and_after(temperature, scored)


def _before_and_after(
    temperature: float, scored: Callable[[float], tuple[np.ndarray, np.ndarray]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure the calibration without and with the temperature; return the errors, and the bins with the temperature.

    Args:
        temperature: The temperature.
        scored: Given a divisor of the logits, returns the scores of N predictions, and bool[N], whether they are right.
    """
    before, after = (reliability(*scored(divisor)) for divisor in (1.0, temperature))
    measured = {
        "temperature": temperature,
        "in_scope_error_before": before["ece"],
        "out_of_scope_error_before": None,
        "in_scope_error_after": after["ece"],
        "out_of_scope_error_after": None,
    }
    return measured, after["bins"]


def calibration_of_classes(
    model: ScoredModel,
    task: Task,
    found: dict[str, tuple[np.ndarray, np.ndarray]],
    right: np.ndarray | None,
    outside: int | None,
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Measure how well probabilities are calibrated on test; return the errors and the bins of the reliability diagram.

    A model without a temperature of its own gets one that is fitted on the validation split, as variants do.

    Args:
        model: The model.
        task: A task with one class for each text.
        found: Split (``validation``, ``test``) → logits [N, C] and labels int[N].
        right: bool[N], whether each prediction on test is right; None: there are no such predictions.
        outside: Class of the out-of-scope texts; None: there are none.
    """
    if right is None or task.class_probabilities(found["test"][0]) is None:
        return None, []
    logits, labels = found["validation"]
    temperature = model.temperature
    if temperature is None:
        known = (labels < logits.shape[1]) & (labels != outside)
        temperature = fit_temperature(logits[known], labels[known])
    logits, labels = found["test"]
    inside = labels != outside if outside is not None else np.ones(len(labels), bool)
    before, after = (SCORES["max_softmax"](logits / divisor) for divisor in (1.0, temperature))
    measured: dict[str, Any] = {"temperature": temperature}
    for name, rows in (("in_scope", inside), ("out_of_scope", ~inside)):
        for stage, confidence in (("before", before), ("after", after)):
            error = reliability(confidence[rows], right[rows])["ece"] if rows.any() else None
            measured[f"{name}_error_{stage}"] = error
    rows = inside if inside.any() else ~inside
    return measured, reliability(after[rows], right[rows])["bins"]
