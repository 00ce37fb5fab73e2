"""Diagnose a job's texts and labels from the teacher's logits: records for the report, and CSV files in the run."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...texts import TextOrPair, joined, texts_of
from ...training.data.analysis.diagnostics import LabelIssue, confused_labels, label_issues, near_duplicates
from ...training.data.rows import SPLITS

if TYPE_CHECKING:
    from ...training.data.text_data import TextData
    from ...training.data.tokenized import LabelledSplit
    from ...training.tasks import Task
    from ..store.runs import Run

ISSUES_FILE = "diagnostics/label-issues.csv"
DUPLICATES_FILE = "diagnostics/near-duplicates.csv"
SUMMARY = "diagnostics/summary.json"
_MOST_ROWS = 10_000  # of a CSV file
_PAIR_SEPARATOR = " | "  # between the texts of a pair
_NUM_SHOWN = 10  # in the record and the report


@dataclass(frozen=True)
class CrossFit:
    """Out-of-sample logits on the training split.

    Attributes:
        logits: float32[N, C]; each row is from a teacher that was trained without it.
        record: What is recorded: ``num_folds``, ``num_epochs``, ``keys`` of the folds in the cache.
    """

    logits: np.ndarray
    record: dict[str, Any]


def diagnose(
    run: Run,
    data: TextData,
    splits: Mapping[str, LabelledSplit],
    task: Task,
    *,
    learned_here: bool,
    cross_fit: Callable[[], CrossFit] | None = None,
) -> dict[str, Any]:
    """Find labels that are probably wrong, confused labels and near-duplicates; write the CSV files.

    Args:
        run: The run that gets the files, below ``diagnostics``.
        data: The texts.
        splits: ``train`` and ``validation`` with the teacher's logits.
        task: The task; labels are diagnosed for tasks with one label per text.
        learned_here: Whether the teacher learned the labels of ``train`` in this job, so that it agrees with most of
            them.
        cross_fit: Computes out-of-sample logits of ``train``, which replace the teacher's here; None: the teacher's.

    Returns:
        ``label_issues`` and ``near_duplicates``: number by split, and the first ones with their texts;
        ``confused_labels``: the most frequent pairs on the validation split; ``learned_here``; ``cross_fit``: the
        record of the folds with their ``accuracy`` on the labels of ``train``, or None.
    """
    if (recorded := run.read(SUMMARY)) is not None:  # written before the run was resumed
        return recorded
    issues: list[dict[str, Any]] = []
    confused: list[dict[str, Any]] = []
    names = data.label_names
    fitted = None if cross_fit is None else cross_fit()
    origins = _origins(learned_here=learned_here, is_cross_fitted=fitted is not None)
    for split in ("validation", "train"):
        logits = splits[split].teacher_logits
        if split == "train" and fitted is not None:
            logits = fitted.logits
        probabilities = None if logits is None else task.class_probabilities(logits)
        if logits is None or probabilities is None:
            continue
        labels = np.asarray(splits[split].tokens.labels)
        found = _issue_rows(split, probabilities, labels, names, texts_of(data.splits[split]))
        issues += [{**row, "probabilities": origins[split]} for row in found]
        if split == "validation":
            has_logits = np.isfinite(logits).all(axis=1)  # a file of logits may lack texts
            confused = _confused(task.predictions(logits[has_logits]), labels[has_logits], names)
    duplicates = _duplicate_rows(data)
    _write(run, ISSUES_FILE, issues)
    _write(run, DUPLICATES_FILE, duplicates)
    summary = {
        "learned_here": learned_here,
        "cross_fit": None if fitted is None else _cross_fit_record(fitted, splits["train"], task),
        "label_issues": _summary(issues),
        "confused_labels": confused[:_NUM_SHOWN],
        "near_duplicates": _summary(duplicates),
    }
    run.write(SUMMARY, summary)
    return summary


def _origins(*, learned_here: bool, is_cross_fitted: bool) -> dict[str, str]:
    """Return, in words, where the probabilities of each split come from."""
    if not learned_here:
        return dict.fromkeys(("validation", "train"), "of a finished checkpoint")
    return {"validation": "out of sample", "train": "out of sample" if is_cross_fitted else "in sample"}


def _cross_fit_record(fitted: CrossFit, train: LabelledSplit, task: Task) -> dict[str, Any]:
    right = task.correct(task.predictions(fitted.logits), np.asarray(train.tokens.labels))
    assert right is not None, "only tasks with classes are cross-fitted"
    return {**fitted.record, "accuracy": float(right.mean())}


def describe(found: Mapping[str, Any]) -> str:
    """Return a summary of ``diagnose``'s record in words; empty if nothing was found."""
    named = {
        "label_issues": "labels that are probably wrong",
        "near_duplicates": "near-duplicates across splits",
    }
    totals = {words: sum(found[key]["num"].values()) for key, words in named.items()}
    parts = [f"{num:,} {words}" for words, num in totals.items() if num]
    return f"{' and '.join(parts)} (see the report)" if parts else ""


def _issue_rows(
    split: str,
    probabilities: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    texts: Sequence[TextOrPair],
) -> list[dict[str, Any]]:
    # Skip labels that no training text has, and texts that a file of logits lacks.
    known = np.flatnonzero((labels < probabilities.shape[1]) & np.isfinite(probabilities).all(axis=1))
    found = label_issues(probabilities[known], labels[known])
    return [_issue_row(split, int(known[each.row]), each, names, texts) for each in found]


def _issue_row(
    split: str, row: int, issue: LabelIssue, names: Sequence[str], texts: Sequence[TextOrPair]
) -> dict[str, Any]:
    return {
        "split": split,
        "row": row + 1,
        "label": names[issue.label],
        "predicted": names[issue.predicted],
        "label_probability": round(issue.label_probability, 4),
        "predicted_probability": round(issue.predicted_probability, 4),
        "text": joined(texts[row], _PAIR_SEPARATOR),
    }


def _confused(predictions: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"labels": [names[a], names[b]], "first_as_second": first, "second_as_first": second}
        for a, b, first, second in confused_labels(predictions, labels)
    ]


def _duplicate_rows(data: TextData) -> list[dict[str, Any]]:
    texts = {split: texts_of(data.splits[split]) for split in SPLITS}
    return [
        {
            "split": each.split,
            "row": each.row + 1,
            "text": joined(texts[each.split][each.row], _PAIR_SEPARATOR),
            "other_split": each.other_split,
            "other_row": each.other_row + 1,
            "other_text": joined(texts[each.other_split][each.other_row], _PAIR_SEPARATOR),
            "similarity": round(each.similarity, 3),
        }
        for each in near_duplicates(texts)
    ]


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    splits = dict.fromkeys(row["split"] for row in rows)
    return {
        "num": {split: sum(row["split"] == split for row in rows) for split in splits},
        "shown": rows[:_NUM_SHOWN],
    }


def _write(run: Run, name: str, rows: Iterable[dict[str, Any]]) -> None:
    rows = list(rows)[:_MOST_ROWS]
    if not rows:
        return
    content = io.StringIO(newline="")
    writer = csv.DictWriter(content, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    run.store.write(run.key(name), content.getvalue().encode())
