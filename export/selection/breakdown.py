"""Break the results of the selected variant on the test split down by label and by slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..benchmark.evaluation import count_confusions, measure_label, most_confused
from ..benchmark.measure_models import Measurement
from ..config import ChooseConfig
from .gate import accuracy_kind, answers_of
from .slices import measure_slices

MOST_DRAWN = 40
"""Labels of a confusion matrix that is drawn; of more, the most confused pairs are listed."""
NUM_PAIRS = 20


def break_down(
    variant: Measurement,
    teacher: Measurement | None,
    labels: Sequence[int],
    label_names: Sequence[str],
    config: ChooseConfig,
    slices: Mapping[str, Sequence[str | None]],
) -> dict[str, Any] | None:
    """Measure a variant for each label and each slice of the test split, as ``config`` compares it.

    Args:
        variant: The measurement of the variant, with predictions.
        teacher: The teacher's; None where there is none.
        labels: int[N], labels of the test split, indices into ``label_names``.
        label_names: Labels that can be predicted, the data's first.
        config: The section ``export.choose``.
        slices: Column -> its value for each text of the test split, as ``TextData.slices``.

    Returns:
        ``accuracy_kind``, ``with_threshold`` or ``without_threshold``; ``labels``, those that occur, the lowest F1
        first: ``label``, ``num_texts``, ``precision``, ``recall``, ``f1``, ``teacher_recall`` (None where undefined);
        ``confusion``: ``labels`` and, of up to 40 labels, ``counts[true][predicted]``, else None; ``pairs``, the most
        frequent confusions: ``label``, ``predicted``, ``num_texts``; ``slices`` as ``measure_slices`` returns them.
        None where the variant has no predictions for the test split.
    """
    kind = accuracy_kind(config, variant)
    own = answers_of(variant, "test", kind)
    base = None if teacher is None else answers_of(teacher, "test", kind)
    if own is None:
        return None
    truth, names = np.asarray(labels), list(label_names)
    counts = count_confusions(truth, own.predictions, len(names))
    occurring: list[int] = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1)).tolist()
    shown, counted = [names[i] for i in occurring], counts[np.ix_(occurring, occurring)].tolist()
    rows: list[dict[str, Any]] = [
        measure_label(names[i], i, counts) | {"teacher_recall": _recall(base and base.right, truth == i)}
        for i in occurring
    ]
    return {
        "accuracy_kind": kind,
        "labels": sorted(rows, key=lambda each: (each["f1"], -each["num_texts"])),
        "confusion": {"labels": shown, "counts": counted if len(shown) <= MOST_DRAWN else None},
        "pairs": [
            {"label": true, "predicted": given, "num_texts": count}
            for count, true, given in most_confused(shown, counted, NUM_PAIRS)
        ],
        "slices": measure_slices(slices, own.right, None if base is None else base.right),
    }


def _recall(right: np.ndarray | None, rows: np.ndarray) -> float | None:
    return float(right[rows].mean()) if right is not None and rows.any() else None
