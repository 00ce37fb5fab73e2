"""Judge a measured model by its logits: metrics, calibration, thresholds and predictions of both splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ....errors import InputError
from ....training.tasks.spans.decoding import answers_of
from ....training.tasks.spans.scoring import scores, words_of_answers
from ...out_of_scope.answers import fit_answers
from ...out_of_scope.label_thresholds import choose_label_thresholds
from ...out_of_scope.thresholds import (
    ScopeGoal,
    answers_with_threshold,
    choose_threshold,
    measure_threshold,
    threshold_curves,
)
from ...temperature import fit_sigmoid_temperature
from ..targets.outputs import SPLITS, ScoredModel
from .calibration import (
    calibration_of_answers,
    calibration_of_classes,
    calibration_of_labels,
    calibration_of_words,
)
from .predictions import pack_answers

if TYPE_CHECKING:
    from ....training.tasks import Task

_ACCURACIES = ("accuracy", "in_scope_accuracy", "oos_recall")
"""Metrics that are fields of a measurement."""


def judge(model: ScoredModel, texts: dict[str, Any], goal: dict[str, Any] | None) -> dict[str, Any]:
    """Measure accuracy without a threshold and with the model's own; select one for a model that has none.

    Args:
        model: The model.
        texts: The fields of :class:`BenchmarkTexts`.
        goal: ``config`` and ``label`` of the threshold selection; None: nothing is measured with a threshold.
    """
    # Imported here because pydantic must not count towards an ONNX model's memory.
    from ....training import tasks

    task = tasks.get(texts["task"])
    if not task.has_classes:
        return _judge_outputs(model, texts, task)
    names = _all_names(model.labels, texts["label_names"], goal)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split in SPLITS:
        labels = np.array([names.index(texts["label_names"][label]) for label in texts[f"{split}_labels"]])
        found[split] = model.logits[split], labels
    label = texts["out_of_scope_label"]
    outside = None if label is None else names.index(label)
    given = {split: task.predictions(logits) for split, (logits, _) in found.items()}
    right: dict[str, Any] = {
        split: task.correct(given[split], labels) for split, (_, labels) in found.items()
    }
    calibration, bins = calibration_of_classes(model, task, found, right["test"], outside)
    place = _places(names, texts["label_names"], goal)
    values = {split: task.metrics(given[split], found[split][1], outside) for split in SPLITS}
    measured: dict[str, Any] = {
        **{name: value for name, value in values["test"].items() if name in _ACCURACIES},
        "validation_accuracy": values["validation"].get("accuracy"),
        "metrics": _other_metrics(values),
        "calibration": calibration,
        "curves": {"reliability": bins},
        "answers": {
            split: {
                "without_threshold": pack_answers(place[given[split]], right[split], place[found[split][1]])
            }
            for split in given
        },
    }
    if goal is not None and task.out_of_scope is not None:
        _judge_threshold(measured, model, found, task, goal, names, place)
    return measured


def _judge_outputs(model: ScoredModel, texts: dict[str, Any], task: Task) -> dict[str, Any]:
    """Measure a model of a task without one class for each text; each of several labels by its own threshold."""
    names = texts["label_names"]
    if sorted(model.labels) != sorted(names):
        raise InputError(
            f"the model has the outputs {', '.join(model.labels)!s:.100}, the data {', '.join(names)!s:.100}; export "
            "the model again"
        )
    columns = [model.labels.index(name) for name in names]
    labels = {
        split: task.measured_labels(texts[f"{split}_texts"], texts[f"{split}_labels"]) for split in SPLITS
    }
    if task.of_windows:
        return _judge_answers(model, texts, columns, task, labels)
    if task.of_tokens:
        calibration, bins = calibration_of_words(model, texts, columns)
        measured = _measure_predictions(task, _predict_tags(model, texts, columns, task), labels)
        return measured | {"calibration": calibration, "curves": {"reliability": bins}}
    logits = {split: model.logits[split][:, columns] for split in SPLITS}
    calibration, curves, cuts = None, None, 0.0
    if task.has_label_sets:
        temperature, cuts = _cuts(model, texts, logits["validation"], labels["validation"])
        calibration, bins = calibration_of_labels(logits["test"], labels["test"], temperature)
        curves = {"reliability": bins}
    given = {split: task.predictions(logits[split] - cuts) for split in SPLITS}
    return _measure_predictions(task, given, labels) | {"calibration": calibration, "curves": curves}


def _judge_answers(
    model: ScoredModel, texts: dict[str, Any], columns: list[int], task: Task, labels: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Measure a model's answers to questions; a missing temperature and threshold are fitted as for variants."""
    contexts = {split: [context for _, context in texts[f"{split}_texts"]] for split in SPLITS}
    outputs = {split: model.logits[split].with_columns(columns) for split in SPLITS}
    threshold, temperature = model.threshold, model.temperature
    if temperature is None:
        fitted = fit_answers(outputs["validation"], contexts["validation"], labels["validation"])
        threshold, temperature = fitted.threshold, fitted.temperature
    given = {
        split: words_of_answers(answers_of(contexts[split], outputs[split], threshold)) for split in SPLITS
    }
    right = scores(given["test"], labels["test"])[:, 1] > 0
    calibration, bins = calibration_of_answers(outputs["test"], threshold, temperature, right)
    return _measure_predictions(task, given, labels) | {
        "calibration": calibration,
        "curves": {"reliability": bins},
    }


def _predict_tags(
    model: ScoredModel, texts: dict[str, Any], columns: list[int], task: Task
) -> dict[str, np.ndarray]:
    """Return the predictions of a model that tags words, for the texts of each split."""
    given = {split: model.logits[split].with_columns(columns) for split in SPLITS}
    return {
        split: task.predictions_of_words(texts[f"{split}_texts"], own.spans, own.logits)
        for split, own in given.items()
    }


def _measure_predictions(
    task: Task, given: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Measure predictions on both splits, and pack them."""
    values = {split: task.metrics(given[split], labels[split]) for split in SPLITS}
    return {
        "validation_accuracy": None,
        "metrics": _other_metrics(values),
        "calibration": None,
        "curves": None,
        "answers": {
            split: {
                "without_threshold": pack_answers(
                    given[split], task.correct(given[split], labels[split]), labels[split]
                )
            }
            for split in SPLITS
        },
    }


def _other_metrics(values: Mapping[str, Mapping[str, float | None]]) -> dict[str, Any] | None:
    """Return the metrics on both splits that are not fields of a measurement, by name; None if there are none."""
    names = [name for name in values["test"] if name not in _ACCURACIES]
    return {name: {split: values[split][name] for split in SPLITS} for name in names} or None


def _cuts(
    model: ScoredModel, texts: dict[str, Any], logits: np.ndarray, labels: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return a model's temperature and its labels' thresholds as logits; its own, or chosen as for variants."""
    from ...out_of_scope.config import LabelThresholdsConfig

    temperature, names, config = model.temperature, texts["label_names"], texts["label_thresholds"]
    if temperature is None:
        temperature = fit_sigmoid_temperature(logits, labels)
    found = model.threshold
    if found is None and config is not None:
        wanted = LabelThresholdsConfig.model_validate(config)
        found = choose_label_thresholds(logits, labels, names, wanted, temperature)
    if found is None:
        return temperature, np.zeros(len(names))
    own = dict(zip(found.labels, found.cuts(temperature), strict=True))
    return temperature, np.array([own[name] for name in names])


def _judge_threshold(
    measured: dict[str, Any],
    model: ScoredModel,
    found: dict[str, tuple[np.ndarray, np.ndarray]],
    task: Task,
    goal: dict[str, Any],
    names: list[str],
    place: np.ndarray,
) -> None:
    """Add the measurements with a threshold to those of a model."""
    from ...out_of_scope.config import OutOfScopeConfig

    scope, number = task.out_of_scope, names.index(goal["label"])
    assert scope is not None
    wanted = ScopeGoal(OutOfScopeConfig.model_validate(goal["config"]), goal["label"])
    threshold = model.threshold or choose_threshold(scope, *found["validation"], number, wanted)
    validation = measure_threshold(scope, threshold, *found["validation"], number)
    measured["with_threshold"] = {
        **measure_threshold(scope, threshold, *found["test"], number),
        "validation_accuracy": validation["accuracy"],
    }
    measured["curves"] |= threshold_curves(scope, threshold, *found["test"], number)
    for split, (logits, labels) in found.items():
        given = answers_with_threshold(scope, threshold, logits, number)
        right = task.correct(given, labels)
        measured["answers"][split]["with_threshold"] = pack_answers(place[given], right, place[labels])


def _all_names(own: list[str], of_data: list[str], goal: dict[str, Any] | None) -> list[str]:
    """Return the model's labels in order, followed by labels that only the data or the threshold have.

    Raises:
        InputError: The model has a label that the data lack.
    """
    for label in own:
        if label not in of_data:
            raise InputError(
                f"label {label!r} is not one of the {len(of_data)} labels of the data; export the model again"
            )
    return list(dict.fromkeys([*own, *of_data, *([] if goal is None else [goal["label"]])]))


def _places(names: list[str], of_data: list[str], goal: dict[str, Any] | None) -> np.ndarray:
    """Map a model's ``names`` to an order that all models share: the data's labels, then the threshold's label."""
    shared = list(dict.fromkeys([*of_data, *([] if goal is None else [goal["label"]])]))
    return np.array([shared.index(name) for name in names])
