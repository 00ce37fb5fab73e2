"""Fit what turns an exported variant's logits into scores: its temperature, and its out-of-scope threshold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ExportError
from ...training import tasks
from ..runtime.classifier import SETTINGS_FILE, TextClassifier
from ..temperature import fit_temperature
from .thresholds import ScopeGoal, choose_threshold


@dataclass(frozen=True)
class ValidationTexts:
    """Labelled texts of the validation split.

    Attributes:
        texts: N texts.
        labels: Label names, N.
        goal: Goal of the threshold selection; None: no threshold is selected.
        out_of_scope_label: Label whose texts the temperature is not fitted on, if there is one.
    """

    texts: Sequence[str]
    labels: Sequence[str]
    goal: ScopeGoal | None = None
    out_of_scope_label: str | None = None


def fit_scores(variant: Path, validation: ValidationTexts) -> dict[str, Any]:
    """Fit a variant's temperature, select its threshold, and write both to its distiltune.json.

    Both use the logits of one text at a time, as in serving: in a dynamically quantized graph they depend on the batch.

    Returns:
        What was written: ``temperature``, fitted on the texts in scope, where the task has class probabilities;
        ``out_of_scope_label`` and ``threshold`` where there is a goal.

    Raises:
        ExportError: There are no texts, or a threshold is requested for a task without out-of-scope texts.
    """
    if not validation.texts:
        raise ExportError(
            "data.validation: the split is empty, but scores and out-of-scope thresholds are fitted on it; add texts"
        )
    classifier = TextClassifier.load(variant)
    task = tasks.get(classifier.task)
    logits = classifier.logits(validation.texts, batch_size=1)
    # A label that the model lacks gets a number that is never predicted.
    names = list(dict.fromkeys([*classifier.labels, *validation.labels]))
    labels = np.array([names.index(label) for label in validation.labels])
    fitted: dict[str, Any] = {}
    if task.class_probabilities(logits) is not None:
        known = labels < logits.shape[1]
        if validation.out_of_scope_label in names:
            known &= labels != names.index(validation.out_of_scope_label)
        fitted["temperature"] = fit_temperature(logits[known], labels[known])
    if validation.goal is not None:
        fitted |= _threshold(task, logits, validation, names, validation.goal)
    path = variant / SETTINGS_FILE
    settings = json.loads(path.read_text(encoding="utf-8")) | fitted
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return fitted


def _threshold(
    task: tasks.Task, logits: np.ndarray, validation: ValidationTexts, names: list[str], goal: ScopeGoal
) -> dict[str, Any]:
    if task.out_of_scope is None:
        raise ExportError(
            f"export.out_of_scope: the task {task.name} has no out-of-scope texts; set it to null"
        )
    names = list(dict.fromkeys([*names, goal.label]))
    labels = np.array([names.index(label) for label in validation.labels])
    threshold = choose_threshold(task.out_of_scope, logits, labels, names.index(goal.label), goal)
    return {"out_of_scope_label": threshold.label, "threshold": threshold.to_json()}
