"""Break the results of the selected variant on the test split down by label and by slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...training.tasks import SINGLE_LABEL, Task
from ..benchmark.accuracy.evaluation import count_confusions, measure_label, measure_labels, most_confused
from ..benchmark.accuracy.predictions import Answers
from ..benchmark.measure_models import Measurement
from ..config import ChooseConfig
from .gate import accuracy_kind, answers_of
from .slices import measure_slices

MOST_DRAWN = 40
"""Maximum number of labels of a confusion matrix that is drawn; of more, the most confused pairs are listed."""
NUM_PAIRS = 20
_NO_CONFUSION: dict[str, Any] = {"labels": [], "counts": None}


def break_down(
    variant: Measurement,
    teacher: Measurement | None,
    labels: Sequence[Any] | np.ndarray,
    label_names: Sequence[str],
    config: ChooseConfig,
    slices: Mapping[str, Sequence[str | None]],
    task: Task = SINGLE_LABEL,
) -> dict[str, Any] | None:
    """Measure a variant for each label and each slice of the test split, as ``config`` compares it.

    Args:
        variant: The measurement of the variant, with predictions.
        teacher: The teacher's; None where there is none.
        labels: [N, ...], labels of the test split as the data has them; classes are indices into ``label_names``.
        label_names: Labels that can be predicted, the data's first.
        config: The section ``export.choose``.
        slices: Column -> its value for each text of the test split, as ``TextData.slices``.
        task: The job's task.

    Returns:
        ``accuracy_kind``, ``with_threshold`` or ``without_threshold``; ``labels``, those that occur, the lowest F1
        first: ``label``, ``num_texts``, ``precision``, ``recall``, ``f1``, ``teacher_recall`` (None where undefined);
        ``confusion``: ``labels`` and, of up to 40 labels, ``counts[true][predicted]``, else None; ``pairs``, the most
        frequent confusions: ``label``, ``predicted``, ``num_texts``; ``slices`` as ``measure_slices`` returns them.
        With several labels a text, there are no confusions; with numbers, neither labels nor slices.
        None where the variant has no predictions for the test split.
    """
    kind = accuracy_kind(config, variant)
    own = answers_of(variant, "test", kind)
    base = None if teacher is None else answers_of(teacher, "test", kind)
    if own is None:
        return None
    truth, names = np.asarray(labels), list(label_names)
    right = own.right if base is None or base.right is not None else None
    found: dict[str, Any] = {"accuracy_kind": kind, "labels": [], "confusion": _NO_CONFUSION, "pairs": []}
    found["slices"] = (
        [] if right is None else measure_slices(slices, right, None if base is None else base.right)
    )
    if not task.has_classes:
        return found | {"labels": _by_label(own, base, truth, names, task)}
    counts = count_confusions(truth, own.predictions, len(names))
    occurring: list[int] = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1)).tolist()
    shown, counted = [names[i] for i in occurring], counts[np.ix_(occurring, occurring)].tolist()
    rows: list[dict[str, Any]] = [
        measure_label(names[i], i, counts) | {"teacher_recall": _recall(base and base.right, truth == i)}
        for i in occurring
    ]
    return found | {
        "labels": _worst_first(rows),
        "confusion": {"labels": shown, "counts": counted if len(shown) <= MOST_DRAWN else None},
        "pairs": [
            {"label": true, "predicted": given, "num_texts": count}
            for count, true, given in most_confused(shown, counted, NUM_PAIRS)
        ],
    }


def _by_label(
    own: Answers, base: Answers | None, truth: np.ndarray, names: list[str], task: Task
) -> list[dict[str, Any]]:
    """Return the rows of the labels that texts or predictions have, where a text has several."""
    names = task.counted_names(names)
    counts = task.label_counts(own.predictions, truth, len(names))
    teacher = None if base is None else task.label_counts(base.predictions, truth, len(names))
    if counts is None:
        return []
    hits = {} if teacher is None else dict(zip(names, teacher.right.tolist(), strict=True))
    return _worst_first(
        [
            row
            | {"teacher_recall": hits[row["label"]] / row["num_texts"] if hits and row["num_texts"] else None}
            for row in measure_labels(counts, names)
        ]
    )


def _worst_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda each: (each["f1"], -each["num_texts"]))


def _recall(right: np.ndarray | None, rows: np.ndarray) -> float | None:
    return float(right[rows].mean()) if right is not None and rows.any() else None
