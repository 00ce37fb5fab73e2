"""Select among variants: the smallest value of one measurement among those within every limit, with reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...training.tasks import SINGLE_LABEL, Metric, Task
from ..benchmark import targets
from ..benchmark.measure_models import Measurement
from ..benchmark.targets import CPU
from ..config import ChooseConfig
from .gate import ACCURACY, STUDENT, TEACHER, apply_gate
from .paired_test import PairedDifference, texts_to_show

_WORSE = {"latency_ms": "slower", "size_mb": "larger", "peak_memory_mb": "more memory"}
_UNITS = {"latency_ms": "ms", "size_mb": "MB", "peak_memory_mb": "MB"}


@dataclass(frozen=True)
class VariantSelection:
    """Result of the selection among variants.

    Attributes:
        measurements: all measurements in order, those of variants with ``gate`` and ``verdict``.
        chosen: name of the selected variant; None where no ONNX variant is within every limit.
        reason: why no variant was selected, with the reason for each; empty where one was.
        warning: that every variant loses more than ``max_drop_from_teacher``, and what to change; else empty.
    """

    measurements: list[Measurement]
    chosen: str | None
    reason: str = ""
    warning: str = ""


def select_variant(
    measurements: Sequence[Measurement],
    config: ChooseConfig,
    *,
    metric: Metric = ACCURACY,
    task: Task = SINGLE_LABEL,
    student: str = STUDENT,
    teacher: str = TEACHER,
    place: str = CPU,
) -> VariantSelection:
    """Select the ONNX variant with the smallest ``config.minimise`` among those within every limit of ``config``.

    An inconclusive outcome of the gate counts as within. If every variant loses too much against the teacher, the
    selection is made as if that limit did not exist, with a warning, except under ``strict``. Ties go to the faster
    variant, then the smaller, then the first. The test split is not used.

    Args:
        measurements: all measurements, including the student's.
        config: the section ``export.choose``.
        metric: the job's metric, to which the limits on losses apply.
        task: the job's task.
        student: name of the student's measurement.
        teacher: name of the teacher's measurement.
        place: entry of ``benchmark.targets`` whose measurements are selected among.

    Raises:
        RunFailedError: the measurements lack values that :func:`~distiltune.export.selection.gate.apply_gate` needs.
    """
    judged = apply_gate(measurements, config, metric=metric, task=task, student=student, teacher=teacher)
    gated = [_bounded(measurement, config, metric) for measurement in judged]
    variants = [each for each in gated if targets.get(each.kind).can_be_sealed and each.place == place]
    kept = [each for each in variants if _is_within(each, config)]
    faithful = [each for each in kept if each.teacher_gate != "failed"]
    if not kept or (config.strict and not faithful):
        return VariantSelection(gated, None, _why_none(variants))
    names = (config.minimise, "latency_ms", "size_mb")
    best = min(faithful or kept, key=lambda measurement: tuple(_value(measurement, name) for name in names))
    return VariantSelection(
        [_compared(measurement, best, len(faithful or kept), config) for measurement in gated],
        best.name,
        warning="" if faithful else _why_unfaithful(best, config, metric),
    )


def _is_within(measurement: Measurement, config: ChooseConfig) -> bool:
    """Return whether a variant is within every limit other than that against the teacher."""
    return measurement.gate in ("passed", "inconclusive") and not _exceeded(measurement, config)


def _exceeded(measurement: Measurement, config: ChooseConfig) -> list[str]:
    """Return the limits on latency, size and memory that a measurement exceeds."""
    return [
        f"over max_{name} {most:g}: {_value(measurement, name):.4g}"
        for name in _UNITS
        if (most := getattr(config, f"max_{name}")) is not None and _value(measurement, name) > most
    ]


def _bounded(measurement: Measurement, config: ChooseConfig, metric: Metric) -> Measurement:
    """Add every exceeded limit to a measurement's verdict; limits apply only to variants that can be sealed."""
    if not targets.get(measurement.kind).can_be_sealed:
        return measurement
    faults = [measurement.verdict] if measurement.verdict else []
    if measurement.gate is None:
        faults.append(f"it has no validation {metric.title}")
    return replace(measurement, verdict="; ".join([*faults, *_exceeded(measurement, config)]) or None)


def _compared(
    measurement: Measurement, best: Measurement, num_kept: int, config: ChooseConfig
) -> Measurement:
    """Return a measurement with a verdict that compares it with the selected one."""
    found = _comparison(measurement, best, num_kept, config)
    if found is None:
        return measurement
    return replace(measurement, verdict="; ".join([found, *filter(None, [measurement.verdict])]))


def _comparison(
    measurement: Measurement, best: Measurement, num_kept: int, config: ChooseConfig
) -> str | None:
    """Compare a variant within the limits with the selected one; None for every other model."""
    name = config.minimise
    least = _value(best, name)
    if measurement.name == best.name:
        rivals = (
            f"the smallest of {num_kept} within every limit"
            if num_kept > 1
            else "the only one within every limit"
        )
        if measurement.teacher_gate == "failed":
            rivals = rivals.replace("every limit", "the other limits")
        return f"selected: {name} {least:.3f}, {rivals}{_open_question(best, config)}"
    target = targets.get(measurement.kind)
    if not target.is_gated or not _is_within(measurement, config):
        return None
    if not target.can_be_sealed:
        return "for comparison only: only an ONNX graph can be sealed"
    if measurement.place != best.place:
        return f"for comparison only: the selection is by the measurements on {best.place}"
    if measurement.teacher_gate == "failed" and best.teacher_gate != "failed":
        return None
    own = _value(measurement, name)
    if own > least:
        return f"{100 * (own / least - 1):.3g} % {_WORSE[name]} than {best.name}"
    for other in ("latency_ms", "size_mb"):
        more = _value(measurement, other) - _value(best, other)
        if more > 0:
            return f"same {name} as {best.name}, but {more:.3g} {_UNITS[other]} {_WORSE[other]}"
    return f"the same as {best.name}, which comes first"


def _open_question(best: Measurement, config: ChooseConfig) -> str:
    """State that the validation texts are too few to compare the selected variant with the teacher; empty if not."""
    found, allowed = best.against_teacher, config.max_drop_from_teacher
    if best.teacher_gate != "inconclusive" or found is None or allowed is None:
        return ""
    limits = f"{found['difference']:+.4f} ({found['low']:+.4f} … {found['high']:+.4f})"
    more = texts_to_show(PairedDifference(**found), allowed)
    needed = "" if more is None else f"; about {more:,} more validation texts would show that it is"
    return (
        f"; inconclusive against the teacher: {limits}, within -{allowed:g} (max_drop_from_teacher){needed}"
    )


def _why_unfaithful(best: Measurement, config: ChooseConfig, metric: Metric) -> str:
    paired = best.against_teacher
    loss = f"{-paired['difference']:.4f}" if paired else "more"
    return (
        f"every variant loses more validation {metric.title} against the teacher than max_drop_from_teacher "
        f"{config.max_drop_from_teacher:g}: {best.name} loses {loss}; keep more of the teacher (student.layers, "
        f"student.width), add texts that it labels (data.unlabelled, data.augmentation), or search longer "
        f"(search.num_trials, num_train_epochs)"
    )


def _why_none(variants: Sequence[Measurement]) -> str:
    if not variants:
        return "no ONNX variant was measured, so none can be selected; add one to export.variants"
    reasons = "; ".join(f"{measurement.name}: {measurement.verdict}" for measurement in variants)
    return f"no ONNX variant is within every limit of export.choose: {reasons}; relax the limits, or build others"


def _value(measurement: Measurement, name: str) -> float:
    return measurement.p50_ms if name == "latency_ms" else getattr(measurement, name)
