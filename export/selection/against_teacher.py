"""Compare the selected variant with the teacher on the test split, for the first lines of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from ...training.tasks import SINGLE_LABEL, Metric, Task
from ..benchmark.accuracy.predictions import Answers
from ..benchmark.measure_models import Measurement
from ..config import ChooseConfig
from .gate import ACCURACY, accuracy_kind, answers_of, compare_answers, share_changed, value_of
from .slices import measure_slices

NUM_LABELS_SHOWN = 5
NUM_SLICES_SHOWN = 5
INTERVAL = 0.95
"""Confidence of the reported intervals, two-sided."""


@dataclass(frozen=True)
class LabelLoss:
    """Results on one label's texts in the test split, which an average hides.

    Attributes:
        label: Name of the label.
        num_texts: Number of its texts.
        num_right, teacher_num_right: Number of them that variant and teacher predict this label for.
    """

    label: str
    num_texts: int
    num_right: int
    teacher_num_right: int


@dataclass(frozen=True)
class SliceLoss:
    """Results on the texts of the test split with one value of a column of ``data.slice_columns``.

    Attributes:
        column: Name of the column.
        value: The value.
        num_texts: Number of its texts.
        num_right, teacher_num_right: Number of them that variant and teacher classify correctly.
    """

    column: str
    value: str
    num_texts: int
    num_right: int
    teacher_num_right: int


@dataclass(frozen=True)
class TeacherComparison:
    """A variant against the teacher on the N texts of the test split.

    Attributes:
        accuracy_kind: ``with_threshold`` or ``without_threshold``, the same for both.
        metric: Name of the metric that is compared.
        title: That name for display.
        value, teacher_value: Its values.
        difference, low, high: Variant minus teacher with the limits of its 95 % interval, two-sided: Tango's for
            accuracy, a paired bootstrap's for any other metric. Where lower is better, the sign is reversed.
        num_texts: N.
        changed: Share of the texts whose prediction differs from the teacher's; None where predictions are numbers.
        labels: The labels that lose most texts, at most five, the largest loss first.
        faster, smaller: Ratios of the teacher's to the variant's latency and size, None for a file of logits; that of
            the latencies is measured in turns (``interleaved.LatencyRatio``), or between their separate measurements
            (p50) where it was not.
        faster_low, faster_high: Limits of the 95 % interval of ``faster``; None where it was not measured in turns.
        slices: The slices that lose most texts, at most five, the largest loss first.
    """

    accuracy_kind: str
    metric: str
    title: str
    value: float
    teacher_value: float
    difference: float
    low: float
    high: float
    num_texts: int
    changed: float | None
    labels: list[LabelLoss]
    faster: float | None
    smaller: float | None
    faster_low: float | None = None
    faster_high: float | None = None
    slices: list[SliceLoss] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return asdict(self)


def compare_with_teacher(
    variant: Measurement,
    teacher: Measurement,
    labels: Sequence[Any] | np.ndarray,
    label_names: Sequence[str],
    config: ChooseConfig,
    *,
    metric: Metric = ACCURACY,
    task: Task = SINGLE_LABEL,
    ratio: Mapping[str, Any] | None = None,
    slices: Mapping[str, Sequence[str | None]] | None = None,
) -> TeacherComparison | None:
    """Compare a variant with the teacher on the test split, as ``config`` compares them on the validation split.

    Args:
        variant: The measurement of the variant, with predictions.
        teacher: The teacher's.
        labels: [N, ...], labels of the test split as the data has them; classes are indices into ``label_names``.
        label_names: The data's labels.
        config: The section ``export.choose``.
        metric: The job's metric.
        task: The job's task.
        ratio: ``LatencyRatio`` of the two as JSON values, if they were timed in turns.
        slices: Column -> its value for each text of the test split, as ``TextData.slices``.

    Returns:
        The comparison; None where one has no predictions for the test split.
    """
    kind, numbers = accuracy_kind(config, variant), np.asarray(labels)
    own, base = answers_of(variant, "test", kind), answers_of(teacher, "test", kind)
    if own is None or base is None:
        return None
    own, base = replace(own, labels=numbers), replace(base, labels=numbers)
    value, teacher_value = value_of(own, metric), value_of(base, metric)
    is_run = teacher.latency_ms is not None
    paired = compare_answers(own, base, metric, confidence=(1 + INTERVAL) / 2)
    if value is None or teacher_value is None or paired is None:
        return None
    return TeacherComparison(
        accuracy_kind=kind,
        metric=metric.name,
        title=metric.title,
        value=value,
        teacher_value=teacher_value,
        difference=paired.difference,
        low=paired.low,
        high=paired.high,
        num_texts=paired.num_texts,
        changed=share_changed(own, base, task),
        labels=_largest_losses(own, base, numbers, label_names, task),
        faster=ratio["faster"] if ratio else teacher.p50_ms / variant.p50_ms if is_run else None,
        smaller=teacher.megabytes / variant.megabytes if is_run else None,
        faster_low=ratio["low"] if ratio else None,
        faster_high=ratio["high"] if ratio else None,
        slices=_largest_slice_losses(slices or {}, own.right, base.right),
    )


def _largest_losses(
    own: Answers, base: Answers, labels: np.ndarray, label_names: Sequence[str], task: Task
) -> list[LabelLoss]:
    label_names = task.counted_names(label_names)
    counts, teacher = (task.label_counts(each.predictions, labels, len(label_names)) for each in (own, base))
    if counts is None or teacher is None:
        return []
    texts, right, teacher_right = counts.texts, counts.right, teacher.right
    order = np.argsort(right - teacher_right, kind="stable")[:NUM_LABELS_SHOWN]
    return [
        LabelLoss(label_names[int(i)], int(texts[i]), int(right[i]), int(teacher_right[i]))
        for i in order
        if right[i] < teacher_right[i]
    ]


def _largest_slice_losses(
    slices: Mapping[str, Sequence[str | None]], own: np.ndarray | None, base: np.ndarray | None
) -> list[SliceLoss]:
    if own is None or base is None:
        return []
    names = [each.name for each in fields(SliceLoss)]
    losses = [
        SliceLoss(**{name: each[name] for name in names})
        for each in measure_slices(slices, own, base)
        if each["num_right"] < each["teacher_num_right"]
    ]
    return sorted(losses, key=lambda each: each.num_right - each.teacher_num_right)[:NUM_SLICES_SHOWN]
