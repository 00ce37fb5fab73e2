"""Measure a model on the slices of a split: the texts with one value of a column, such as a channel or a language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MOST_VALUES = 20
"""Maximum number of values of a column, the most frequent ones, that have a slice of their own."""
NO_VALUE, OTHER_VALUES = "(none)", "(others)"


def measure_slices(
    slices: Mapping[str, Sequence[str | None]],
    right: Sequence[bool] | np.ndarray,
    teacher_right: Sequence[bool] | np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Measure the accuracy on each slice of N texts.

    Args:
        slices: Column -> its value for each text; None for a text without one.
        right: bool[N], whether the model classifies each text correctly.
        teacher_right: bool[N], of the teacher; None where there is none.

    Returns:
        For each column the values by falling frequency, at most 20 of them, then the others together: ``column``,
        ``value``, ``num_texts``, ``num_right``, ``accuracy``; with a teacher also ``teacher_num_right``,
        ``teacher_accuracy`` and ``difference``, the model's accuracy minus the teacher's.
    """
    own = np.asarray(right, dtype=bool)
    base = None if teacher_right is None else np.asarray(teacher_right, dtype=bool)
    return [
        {"column": column, "value": value, **_measure(rows, own, base)}
        for column, values in slices.items()
        for value, rows in _rows_by_value(values).items()
    ]


def _rows_by_value(values: Sequence[str | None]) -> dict[str, np.ndarray]:
    """Return the indices of the rows of each slice of a column."""
    named = [NO_VALUE if value is None else value for value in values]
    ranked = sorted(Counter(named).items(), key=lambda each: (-each[1], each[0]))
    kept = [value for value, _ in ranked[:MOST_VALUES]]
    places = {value: place for place, value in enumerate(kept)}
    of_row = np.array([places.get(value, len(kept)) for value in named], dtype=np.int64)
    names = [*kept, *([OTHER_VALUES] if len(ranked) > len(kept) else [])]
    return {name: np.flatnonzero(of_row == place) for place, name in enumerate(names)}


def _measure(rows: np.ndarray, own: np.ndarray, base: np.ndarray | None) -> dict[str, Any]:
    found = {
        "num_texts": len(rows),
        "num_right": int(own[rows].sum()),
        "accuracy": float(own[rows].mean()),
    }
    if base is None:
        return found
    teacher = float(base[rows].mean())
    return found | {
        "teacher_num_right": int(base[rows].sum()),
        "teacher_accuracy": teacher,
        "difference": found["accuracy"] - teacher,
    }
