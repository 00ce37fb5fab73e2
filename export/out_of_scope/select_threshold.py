"""Select an exported variant's out-of-scope threshold on its own logits of the validation texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import ExportError
from ...training import tasks
from ..runtime.classifier import SETTINGS_FILE, TextClassifier
from ..runtime.scores import Threshold
from .thresholds import ScopeGoal, choose_threshold


@dataclass(frozen=True)
class CalibrationTexts:
    """Labelled texts of the validation split.

    Attributes:
        texts: N texts.
        labels: Label names, N.
        goal: Goal of the threshold selection.
    """

    texts: Sequence[str]
    labels: Sequence[str]
    goal: ScopeGoal


def calibrate(variant: Path, calibration: CalibrationTexts) -> Threshold:
    """Select a variant's threshold on the logits of one text at a time, and write it to its distiltune.json.

    Raises:
        ExportError: There are no texts to select it on, or the variant's task has no out-of-scope texts.
    """
    if not calibration.texts:
        raise ExportError(
            "export.out_of_scope: the validation split is empty, but the threshold is selected on it; add texts to "
            "data.validation, or set export.out_of_scope to null"
        )
    classifier = TextClassifier.load(variant)
    scope = tasks.get(classifier.task).out_of_scope
    if scope is None:
        raise ExportError(
            f"export.out_of_scope: the task {classifier.task} has no out-of-scope texts; set it to null"
        )
    # A label that the model lacks gets a number that is never predicted.
    names = list(dict.fromkeys([*classifier.labels, calibration.goal.label]))
    # One text at a time, as in serving: in a dynamically quantized graph, logits depend on the batch.
    logits = classifier.logits(calibration.texts, batch_size=1)
    labels = np.array([names.index(label) for label in calibration.labels])
    outside = names.index(calibration.goal.label)
    threshold = choose_threshold(scope, logits, labels, outside, calibration.goal)
    path = variant / SETTINGS_FILE
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"out_of_scope_label": threshold.label, "threshold": threshold.to_json()}
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return threshold
