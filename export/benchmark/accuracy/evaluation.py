"""Evaluate predictions on labelled texts: accuracy with its interval, each label, confusions, calibration, metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....training.tasks import LabelCounts, Task
from ....training.tasks.spans.scoring import words_of_answers
from ...out_of_scope.thresholds import reliability

_Z_95 = 1.959963984540054  # the 97.5th percentile of the standard normal distribution


def evaluate(
    answers: Sequence[Mapping[str, Any]], truth: Sequence[str], labels: Sequence[str]
) -> dict[str, Any]:
    """Compare N predictions with the true labels.

    Args:
        answers: ``label`` and ``score`` of each text, in order.
        truth: The true label of each text.
        labels: Labels of the classifier, which come first in the tables; others of ``truth`` and ``answers`` follow.

    Returns:
        ``num_texts``; ``accuracy``; ``interval``, its lower and upper bound at 95 % by Wilson's score ("Probable
        Inference", 1927); ``calibration_error`` of the scores; ``labels``, for each that occurs: ``label``,
        ``precision``, ``recall``, ``f1`` (None where it is not defined), ``num_texts``; ``unknown``, labels of the
        texts that the classifier cannot predict; ``confusion``: ``labels`` and ``counts[true][predicted]``.
    """
    predicted = [answer["label"] for answer in answers]
    names = list(dict.fromkeys([*labels, *sorted({*truth, *predicted})]))
    place = {name: number for number, name in enumerate(names)}
    counts = count_confusions(
        [place[each] for each in truth], [place[each] for each in predicted], len(names)
    )
    right = np.array([one == other for one, other in zip(predicted, truth, strict=True)])
    scores = np.array([answer["score"] for answer in answers], dtype=np.float64)
    occurring: list[int] = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1)).tolist()
    return {
        "num_texts": len(truth),
        "accuracy": float(right.mean()),
        "interval": wilson_interval(int(right.sum()), len(right)),
        "calibration_error": reliability(scores, right)["ece"],
        "labels": [measure_label(names[i], i, counts) for i in occurring],
        "unknown": sorted({*truth} - {*labels, *predicted}),
        "confusion": {
            "labels": [names[i] for i in occurring],
            "counts": counts[np.ix_(occurring, occurring)].tolist(),
        },
    }


def evaluate_outputs(
    logits: np.ndarray,
    truth: Sequence[Any],
    labels: Sequence[str],
    task: Task,
    cuts: np.ndarray | float = 0.0,
) -> dict[str, Any]:
    """Measure a model of a task without one class for each text.

    Args:
        logits: float[N, C].
        truth: Labels of the texts: names, or numbers.
        labels: Names of the C outputs.
        task: The task.
        cuts: Logit above which each label is predicted.

    Returns:
        ``num_texts``; ``metrics`` by name, None for one that is not defined; ``right``, bool[N], None where predictions
        are numbers; ``labels``, for each that occurs, as ``evaluate`` returns them; ``unknown``, labels of the texts
        that the model cannot predict, which are not counted.
    """
    predictions, unknown = task.predictions(logits - cuts), set[str]()
    if task.has_label_sets:
        numbers = {name: number for number, name in enumerate(labels)}
        expected = np.zeros((len(truth), len(labels)), dtype=task.label_dtype)
        for row, names in enumerate(truth):
            unknown.update(name for name in names if name not in numbers)
            expected[row, [numbers[name] for name in names if name in numbers]] = 1
    else:
        expected = np.array(truth, dtype=task.label_dtype)
    counts = task.label_counts(predictions, expected, len(labels))
    return {
        "num_texts": len(truth),
        "metrics": task.metrics(predictions, expected),
        "right": task.correct(predictions, expected),
        "labels": [] if counts is None else measure_labels(counts, labels),
        "unknown": sorted(unknown),
    }


def evaluate_spans(
    answers: Sequence[Sequence[Mapping[str, Any]]],
    texts: Sequence[Any],
    truth: Sequence[Sequence[Any]],
    types: Sequence[str],
    task: Task,
) -> dict[str, Any]:
    """Measure the entities that a model finds in N texts.

    Args:
        answers: ``start``, ``end`` and ``label`` of the predictions for each text.
        texts: The texts.
        truth: The entities of each text, each of ``start``, ``end`` and ``type``.
        types: Types of entities that the model predicts.
        task: The task.

    Returns:
        As ``evaluate_outputs``; ``num_texts`` of a label is the number of its entities. Entities of unknown types count
        as missed in the metrics.
    """
    unknown = sorted({each.type for label in truth for each in label} - set(types))
    number = {name: place for place, name in enumerate([*types, *unknown])}
    expected = [[[each.start, each.end, number[each.type]] for each in label] for label in truth]
    found = [[[each["start"], each["end"], number[each["label"]]] for each in answer] for answer in answers]
    labels, predictions = (task.measured_labels(texts, each) for each in (expected, found))
    counts = task.label_counts(predictions, labels, len(types))
    return {
        "num_texts": len(truth),
        "metrics": task.metrics(predictions, labels),
        "right": task.correct(predictions, labels),
        "labels": [] if counts is None else measure_labels(counts, types),
        "unknown": unknown,
    }


def evaluate_answers(
    answers: Sequence[Mapping[str, Any]],
    texts: Sequence[Any],
    truth: Sequence[Sequence[Sequence[int]]],
    task: Task,
) -> dict[str, Any]:
    """Measure the answers of a model to N questions.

    Args:
        answers: ``answer`` of each question.
        texts: Each question with its context.
        truth: The right answers to each, as their first character in the context and the one after their last.
        task: The task.

    Returns:
        As ``evaluate_outputs``, without labels.
    """
    labels = task.measured_labels(texts, truth)
    predictions = words_of_answers([each["answer"] for each in answers])
    return {
        "num_texts": len(truth),
        "metrics": task.metrics(predictions, labels),
        "right": task.correct(predictions, labels),
        "labels": [],
        "unknown": [],
    }


def measure_labels(counts: LabelCounts, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the fields of ``measure_label`` for each label that texts or predictions have."""
    found = []
    for number in np.flatnonzero(counts.texts + counts.predicted).tolist():
        hits, texts, given = (int(each[number]) for each in (counts.right, counts.texts, counts.predicted))
        found.append(
            {
                "label": names[int(number)],
                "precision": hits / given if given else None,
                "recall": hits / texts if texts else None,
                "f1": 2 * hits / (texts + given),
                "num_texts": texts,
            }
        )
    return found


def wilson_interval(num_right: int, num_texts: int) -> list[float]:
    """Return the lower and upper bound of an accuracy at 95 % confidence, by Wilson's score."""
    share, squared = num_right / num_texts, _Z_95**2
    middle = share + squared / (2 * num_texts)
    width = _Z_95 * math.sqrt(share * (1 - share) / num_texts + squared / (4 * num_texts**2))
    whole = 1 + squared / num_texts
    return [max(0.0, (middle - width) / whole), min(1.0, (middle + width) / whole)]


def count_confusions(
    truth: Sequence[int] | np.ndarray, predicted: Sequence[int] | np.ndarray, num_labels: int
) -> np.ndarray:
    """Return the number of texts by true and predicted label, int64[C, C] with ``counts[true, predicted]``."""
    counts = np.zeros((num_labels, num_labels), dtype=np.int64)
    np.add.at(counts, (np.asarray(truth), np.asarray(predicted)), 1)
    return counts


def most_confused(
    labels: Sequence[str], counts: Sequence[Sequence[int]], most: int
) -> list[tuple[int, str, str]]:
    """Return the most frequent confusions as (number of texts, true label, predicted label), at most ``most``."""
    wrong = [
        (int(count), labels[true], labels[given])
        for true, row in enumerate(counts)
        for given, count in enumerate(row)
        if count and true != given
    ]
    return sorted(wrong, key=lambda each: -each[0])[:most]


def measure_label(name: str, number: int, counts: np.ndarray) -> dict[str, Any]:
    """Return ``label``, ``precision``, ``recall``, ``f1`` (None where undefined) and ``num_texts`` of one label.

    Args:
        name: The label.
        number: Its number.
        counts: int[C, C], from ``count_confusions``; the label occurs in it.
    """
    hits, given, true = counts[number, number], counts[:, number].sum(), counts[number].sum()
    return {
        "label": name,
        "precision": float(hits / given) if given else None,
        "recall": float(hits / true) if true else None,
        "f1": float(2 * hits / (given + true)),
        "num_texts": int(true),
    }
