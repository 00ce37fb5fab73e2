"""Fit the temperature and the thresholds of an exported variant on the validation split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ExportError
from ...texts import TextOrPair, all_parts
from ...training import tasks
from ...training.tasks.spans.decoding import SpanLogits
from ...training.tasks.words import find_words, tags_of_words
from ..artifact.manifest import SETTINGS_FILE
from ..runtime.classifier import TextClassifier
from ..runtime.classifier_config import read_config
from ..temperature import fit_sigmoid_temperature, fit_temperature
from .answers import fit_answers
from .config import LabelThresholdsConfig
from .label_thresholds import choose_label_thresholds
from .thresholds import ScopeGoal, choose_threshold

LOGITS_FILE = "validation-logits.npy"
"""Logits of the validation texts in a variant's folder, float32[N, C]; no part of an artifact."""


@dataclass(frozen=True)
class ValidationTexts:
    """Labelled texts of the validation split.

    Attributes:
        texts: N texts.
        labels: N label names; for a task without one class for each text, its labels [N, …] as the data has them.
        goal: Goal of the threshold selection; None: no threshold is selected.
        out_of_scope_label: Label whose texts the temperature is not fitted on, if there is one.
        label_thresholds: How the threshold of each of several labels is chosen; None: there are none.
    """

    texts: Sequence[TextOrPair]
    labels: Sequence[Any]
    goal: ScopeGoal | None = None
    out_of_scope_label: str | None = None
    label_thresholds: LabelThresholdsConfig | None = None


def fit_scores(
    variant: Path, validation: ValidationTexts, classifier: TextClassifier | None = None
) -> dict[str, Any]:
    """Fit a variant's temperature, select its threshold, and write both to its distiltune.json.

    Both use the logits of one text at a time, as in serving: in a dynamically quantized graph they depend on the batch.
    The logits are stored beside the graph, for :func:`refit_scores`.

    Args:
        variant: Folder of the variant.
        validation: Texts of the validation split.
        classifier: The opened variant; None: it is opened.

    Returns:
        What was written: ``temperature``, fitted on the texts in scope, where the task has probabilities;
        ``out_of_scope_label`` and ``threshold`` where there is a goal; ``threshold`` with several labels, and where
        questions may have no answer.

    Raises:
        ExportError: There are no texts, or a threshold is requested for a task without out-of-scope texts.
    """
    if not validation.texts:
        raise ExportError(
            "data.validation: the split is empty, but scores and out-of-scope thresholds are fitted on it; add texts"
        )
    classifier = classifier or TextClassifier.load(variant)
    if classifier.of_windows:
        return _fit_answers(variant, classifier, validation)
    if classifier.of_tokens:
        return _fit_words(variant, classifier, validation)
    logits = classifier.logits(validation.texts, batch_size=1)
    np.save(variant / LOGITS_FILE, logits)
    return _fit(variant, logits, classifier.labels, tasks.get(classifier.task), validation)


def refit_scores(variant: Path, validation: ValidationTexts, *, num_threads: int) -> None:
    """Fit a variant's scores again for another goal or number of threads, from its stored logits.

    The result is the distiltune.json that ``fit_scores`` writes for a variant that is built with that goal.

    Args:
        variant: Folder of the variant.
        validation: Texts of the validation split that the logits were computed on.
        num_threads: Intra-op threads of the runtime.

    Raises:
        ExportError: The logits are missing or belong to other texts.
    """
    path = variant / SETTINGS_FILE
    config = read_config(path.read_bytes(), path)
    if tasks.get(config.task).of_tokens:  # temperature and threshold depend on no goal there
        _update(path, {"num_threads": num_threads})
        return
    try:
        logits = np.load(variant / LOGITS_FILE, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{variant / LOGITS_FILE}: cannot be read ({error}); build the variant again"
        ) from error
    if logits.ndim != 2 or len(logits) != len(validation.texts):
        raise ExportError(
            f"{variant / LOGITS_FILE}: shape {logits.shape} given for {len(validation.texts)} texts; build the "
            f"variant again"
        )
    unfitted = {
        "threshold": None,
        "out_of_scope_label": validation.out_of_scope_label,
        "num_threads": num_threads,
    }
    _update(path, unfitted)
    _fit(variant, logits, config.labels, tasks.get(config.task), validation)


def _fit(
    variant: Path,
    logits: np.ndarray,
    own_labels: Sequence[str],
    task: tasks.Task,
    validation: ValidationTexts,
) -> dict[str, Any]:
    if not task.has_classes:
        return _fit_labels(variant, logits, own_labels, validation) if task.has_label_sets else {}
    # A label that the model lacks gets a number that is never predicted.
    names = list(dict.fromkeys([*own_labels, *validation.labels]))
    labels = np.array([names.index(label) for label in validation.labels])
    fitted: dict[str, Any] = {}
    if task.class_probabilities(logits) is not None:
        known = labels < logits.shape[1]
        if validation.out_of_scope_label in names:
            known &= labels != names.index(validation.out_of_scope_label)
        fitted["temperature"] = fit_temperature(logits[known], labels[known])
    if validation.goal is not None:
        fitted |= _threshold(task, logits, validation, names, validation.goal)
    _update(variant / SETTINGS_FILE, fitted)
    return fitted


def _fit_labels(
    variant: Path, logits: np.ndarray, own_labels: Sequence[str], validation: ValidationTexts
) -> dict[str, Any]:
    """Fit the temperature and the thresholds of a model with several labels for each text."""
    labels = np.asarray(validation.labels)
    temperature = fit_sigmoid_temperature(logits, labels)
    found = choose_label_thresholds(
        logits, labels, list(own_labels), validation.label_thresholds, temperature
    )
    fitted = {"temperature": temperature, "threshold": None if found is None else found.to_json()}
    _update(variant / SETTINGS_FILE, fitted)
    return fitted


def _fit_words(variant: Path, classifier: TextClassifier, validation: ValidationTexts) -> dict[str, Any]:
    """Fit the temperature of a model that tags the words of texts; its labels are in the data's order."""
    logits, labels = [], []
    rows = classifier.logits(validation.texts, batch_size=1)
    tokens = classifier.tokens(all_parts(validation.texts))
    for row, own, entities in zip(rows, tokens, validation.labels, strict=True):
        words = find_words(*own)
        logits.append(row[words.pieces])
        labels.append(tags_of_words(words, entities))
    fitted = {"temperature": fit_temperature(np.concatenate(logits), np.concatenate(labels))}
    _update(variant / SETTINGS_FILE, fitted)
    return fitted


def _fit_answers(variant: Path, classifier: TextClassifier, validation: ValidationTexts) -> dict[str, Any]:
    """Fit the temperature of a question-answering model, and the threshold of no answer if some questions have none."""
    task, pairs = tasks.get(classifier.task), validation.texts
    windows = classifier.windows([(text[0], text[1]) for text in pairs])
    outputs = SpanLogits.of_windows(windows, classifier.logits(pairs, batch_size=1))
    labels = task.measured_labels(pairs, validation.labels)
    fitted = asdict(fit_answers(outputs, [text[1] for text in pairs], labels))
    _update(variant / SETTINGS_FILE, fitted)
    return fitted


def _update(path: Path, values: dict[str, Any]) -> None:
    settings = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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
