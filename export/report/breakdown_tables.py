"""Tables of ``report["breakdown"]`` in Markdown: labels, confused pairs and slices of the test split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..markdown import NONE, Markdown, fixed, table

_MOST_CHARACTERS = 60  # of a slice's value


def labels_table(labels: Sequence[dict[str, Any]]) -> Markdown:
    """Return the table of every label: texts or entities, precision, recall, F1, teacher's recall if known."""
    has_teacher = any(each["teacher_recall"] is not None for each in labels)
    headers = [
        "label",
        "support on test",
        "precision",
        "recall",
        "F1",
        *(["teacher recall"] if has_teacher else []),
    ]
    names = ["precision", "recall", "f1", *(["teacher_recall"] if has_teacher else [])]
    rows = [
        [each["label"], f"{each['num_texts']:,}", *(fixed(each[name], 4) for name in names)]
        for each in labels
    ]
    return table(headers, rows)


def pairs_table(pairs: Sequence[dict[str, Any]]) -> Markdown:
    """Return the table of the most confused pairs of labels."""
    rows = [[each["label"], each["predicted"], f"{each['num_texts']:,}"] for each in pairs]
    return table(["label", "predicted as", "test texts"], rows, left=(0, 1))


def slices_table(slices: Sequence[dict[str, Any]]) -> Markdown:
    """Return the table of every slice: texts, and the accuracy beside the teacher's where it is known."""
    has_teacher = any("teacher_accuracy" in each for each in slices)
    headers = ["column", "value", "test texts", "accuracy"]
    headers += ["teacher accuracy", "difference"] if has_teacher else []
    rows = []
    for each in slices:
        cells = [each["column"], _short(each["value"]), f"{each['num_texts']:,}", fixed(each["accuracy"], 4)]
        if has_teacher:
            cells += [fixed(each["teacher_accuracy"], 4), f"{each['difference']:+.4f}"]
        rows.append(cells)
    return table(headers, rows, left=(0, 1))


def slice_losses_table(slices: Sequence[dict[str, Any]]) -> Markdown:
    """Return the table of ``report["against_teacher"]["slices"]``: texts that both classify correctly."""
    rows = [
        [
            each["column"],
            _short(each["value"]),
            each["num_texts"],
            each["teacher_num_right"],
            each["num_right"],
        ]
        for each in slices
    ]
    return table(["column", "value", "test texts", "teacher right", "chosen right"], rows, left=(0, 1))


def _short(value: str) -> str:
    if not value.strip():
        return NONE
    return value if len(value) <= _MOST_CHARACTERS else f"{value[: _MOST_CHARACTERS - 1]}…"
