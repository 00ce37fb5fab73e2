"""An exported variant's own out-of-scope threshold, chosen on what that very graph says of the validation texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import ExportError
from ...training import tasks
from ..runtime.classifier import CONFIG_FILE, TextClassifier
from ..runtime.scores import Threshold
from .thresholds import ScopeGoal, choose_threshold


@dataclass(frozen=True)
class CalibrationTexts:
    """Labelled texts of the validation split.

    Attributes:
        texts: N of them.
        labels: Their labels, by name.
        goal: What the threshold is chosen for.
    """

    texts: Sequence[str]
    labels: Sequence[str]
    goal: ScopeGoal


def calibrate(variant: Path, calibration: CalibrationTexts) -> Threshold:
    """Choose a variant's threshold, on the logits of one text at a time, and write it into its config.json.

    Raises:
        ExportError: There is no text to choose it on, or the variant's task has no out-of-scope texts.
    """
    if not calibration.texts:
        raise ExportError(
            "export.out_of_scope: the validation split is empty, and a threshold is chosen on it; give "
            "data.validation texts, or set export.out_of_scope to null"
        )
    classifier = TextClassifier.load(variant)
    scope = tasks.get(classifier.task).out_of_scope
    if scope is None:
        raise ExportError(
            f"export.out_of_scope: the task {classifier.task} has no out-of-scope texts; set it to null"
        )
    # A label that the model does not know gets a number that no prediction has.
    names = list(dict.fromkeys([*classifier.labels, calibration.goal.label]))
    # As a text is asked: in a dynamically quantized graph the logits depend on the texts beside it.
    logits = classifier.logits(calibration.texts, batch_size=1)
    labels = np.array([names.index(label) for label in calibration.labels])
    outside = names.index(calibration.goal.label)
    threshold = choose_threshold(scope, logits, labels, outside, calibration.goal)
    path = variant / CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"out_of_scope_label": threshold.label, "threshold": threshold.to_json()}
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return threshold
