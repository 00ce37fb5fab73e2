"""The gate: check each measured variant against the limits on the job's metric on the validation split.

A limit on the loss has three outcomes. *Passed*: the paired test (of a share of right texts) or the paired bootstrap
(of any other metric) shows, with the configured confidence, that the loss is within the limit. *Failed*: the measured
loss exceeds it. *Inconclusive*: the measured loss is within the limit, and the texts are too few to show it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

from ...errors import ConfigError, RunFailedError
from ...training.tasks import SINGLE_LABEL, Metric, Task
from ..benchmark import targets
from ..benchmark.accuracy.predictions import Answers, unpack_answers
from ..benchmark.measure_models import Measurement, Outcome
from ..config import ChooseConfig
from .bootstrap import compare_in_metric
from .paired_test import PairedDifference, compare_paired, texts_to_show

STUDENT = "student-pytorch"
TEACHER = "teacher-pytorch"
ACCURACY = SINGLE_LABEL.metric("accuracy", ())
_ROUNDING = 1e-9
_ORDER: tuple[Outcome, ...] = ("passed", "inconclusive", "failed")


@dataclass(frozen=True)
class _ValidationValues:
    """The values of one measurement that the gate uses."""

    name: str
    value: float
    answers: Answers | None


@dataclass(frozen=True)
class _Finding:
    """The outcome for one limit, and the reason unless it is passed."""

    outcome: Outcome
    reason: str = ""


def check_gate(config: ChooseConfig, num_texts: int, *, has_threshold: bool) -> None:
    """Reject, before training, a gate that no variant can pass or that lacks the data to be applied.

    Args:
        config: The section ``export.choose``.
        num_texts: Number of texts in the validation split that the job's metric is about.
        has_threshold: Whether the variants get an out-of-scope threshold.

    Raises:
        ConfigError: The gate cannot be used; the message names what to set instead.
    """
    if config.accuracy == "with_threshold" and not has_threshold:
        raise ConfigError(
            "export.choose.accuracy: with_threshold given, but this data has no out-of-scope threshold; remove the "
            "key, or set export.out_of_scope.label and max_in_scope_refused"
        )
    if not config.strict:
        return
    allowed = config.max_drop_from_student
    z2 = NormalDist().inv_cdf(config.confidence) ** 2
    least = z2 / (num_texts + z2)  # limit of a variant that changes no prediction: paired_test.score_limits
    if allowed is not None and allowed < least:
        more = f", use {math.ceil(z2 * (1 - allowed) / allowed):,} such texts" if allowed else ""
        raise ConfigError(
            f"export.choose.max_drop_from_student: {allowed:g} given, but the {num_texts:,} validation texts that "
            f"the job's metric is about cannot show, with confidence {config.confidence:g}, that even a variant with "
            f"unchanged predictions loses less than {least:.4f}; raise it{more}, or remove export.choose.strict, so "
            f"that the measured loss decides"
        )


def apply_gate(
    measurements: Sequence[Measurement],
    config: ChooseConfig,
    *,
    metric: Metric = ACCURACY,
    task: Task = SINGLE_LABEL,
    student: str = STUDENT,
    teacher: str = TEACHER,
) -> list[Measurement]:
    """Compare each model made from the student with the student and the teacher on the validation split.

    Every limit has one of the three outcomes above, and a model has the worst of its limits' outcomes. Under ``strict``
    whatever is not passed has failed.

    Args:
        measurements: all measurements, in any order, including the student's.
        config: the section ``export.choose``.
        metric: the job's metric, to which the limits apply.
        task: the job's task, which defines where predictions differ.
        student: name of the student's measurement.
        teacher: name of the teacher's measurement.

    Returns:
        The measurements in the same order; all with predictions get ``metric`` if it is not accuracy. Student and
        variants get ``gate``, ``teacher_gate``, a ``verdict`` with the reason of each limit that is not passed (of that
        against the teacher, if it failed), and, where they have predictions, ``against_student``, ``against_teacher``
        and ``predictions_changed``. The gate does not apply to teacher and reference.

    Raises:
        RunFailedError: the student's measurement or its value in the metric is missing, or under ``strict`` the
            predictions of one.
    """
    if metric.name != ACCURACY.name:
        measurements = [replace(each, metric=_measured(each, config, metric)) for each in measurements]
    values = {
        measurement.name: found
        for measurement in measurements
        if (measurement.metric is not None or metric.name == ACCURACY.name)
        and (found := _validation_values(measurement, config)) is not None
    }
    if student not in values:
        raise RunFailedError(
            f"the validation {metric.title} of {student!r} is missing, and the gate compares with it"
        )
    return [
        _judge(measurement, values, config, metric, task, student, teacher)
        if measurement.name in values
        and (measurement.name == student or targets.get(measurement.kind).is_gated)
        else measurement
        for measurement in measurements
    ]


def accuracy_kind(config: ChooseConfig, measurement: Measurement) -> str:
    """Return which predictions the limits apply to: the configured ones, or those of the artifact."""
    return config.accuracy or ("with_threshold" if measurement.with_threshold else "without_threshold")


def answers_of(measurement: Measurement, split: str, kind: str) -> Answers | None:
    """Return the predictions of a measurement on a split, or None if it has none.

    Raises:
        InputError: They cannot be read.
    """
    packed = (measurement.answers or {}).get(split, {}).get(kind)
    return None if packed is None else unpack_answers(packed)


def _measured(measurement: Measurement, config: ChooseConfig, metric: Metric) -> dict[str, Any] | None:
    """Return the metric of a measurement on both splits, as ``Measurement.metric``; None without predictions."""
    kind = accuracy_kind(config, measurement)
    found = {split: answers_of(measurement, split, kind) for split in ("validation", "test")}
    values = {
        split: metric.measure(each.predictions, each.labels)
        for split, each in found.items()
        if each is not None and each.labels is not None
    }
    return {"name": metric.name, "kind": kind, "validation": None, "test": None, **values} if values else None


def _validation_values(measurement: Measurement, config: ChooseConfig) -> _ValidationValues | None:
    kind = accuracy_kind(config, measurement)
    if measurement.metric is not None:
        value = measurement.metric["validation"]
    elif kind == "with_threshold":
        value = (measurement.with_threshold or {}).get("validation_accuracy")
    else:
        value = measurement.validation_accuracy
    if value is None:
        return None
    return _ValidationValues(measurement.name, value, answers_of(measurement, "validation", kind))


def _judge(
    measurement: Measurement,
    values: dict[str, _ValidationValues],
    config: ChooseConfig,
    metric: Metric,
    task: Task,
    student: str,
    teacher: str,
) -> Measurement:
    own = values[measurement.name]
    compared: dict[str, PairedDifference | None] = {}
    findings: dict[str, _Finding] = {}
    for name, limit in ((student, "max_drop_from_student"), (teacher, "max_drop_from_teacher")):
        base = values.get(name)
        if base is not None and name != measurement.name:
            compared[name] = _compare(own, base, metric, config.confidence)
            if getattr(config, limit) is not None:
                findings[name] = _loss_finding(own, base, compared[name], limit, config, metric)
    own_findings = [_value_finding(own, config, metric), findings.get(student, _Finding("passed"))]
    given = values[student].answers
    changed = None
    if measurement.name != student and own.answers is not None and given is not None:
        changed = share_changed(own.answers, given, task)
    found = {name: None if paired is None else paired.to_json() for name, paired in compared.items()}
    reasons = [each.reason for each in own_findings if each.reason]
    # Few texts seldom show how far a student is from its teacher, so only a failure is named for every variant.
    if teacher in findings and findings[teacher].outcome == "failed":
        reasons.append(findings[teacher].reason)
    return replace(
        measurement,
        gate=max((each.outcome for each in own_findings), key=_ORDER.index),
        teacher_gate=findings[teacher].outcome if teacher in findings else None,
        verdict="; ".join(dict.fromkeys(reasons)) or None,
        against_student=found.get(student),
        against_teacher=found.get(teacher),
        predictions_changed=changed,
    )


def _value_finding(own: _ValidationValues, config: ChooseConfig, metric: Metric) -> _Finding:
    least = config.min_validation_metric
    if least is None or own.value >= least - _ROUNDING:
        return _Finding("passed")
    return _Finding(
        "failed", f"validation {metric.title} {own.value:.4f} below min_validation_metric {least:g}"
    )


def _compare(
    own: _ValidationValues, base: _ValidationValues, metric: Metric, confidence: float
) -> PairedDifference | None:
    if own.answers is None or base.answers is None:
        return None
    first, second = own.answers, base.answers
    if len(first.predictions) != len(second.predictions):
        raise RunFailedError(
            f"{own.name!r} and {base.name!r} were measured on {len(first.predictions)} and {len(second.predictions)} "
            "validation texts; measure them again"
        )
    return compare_answers(first, second, metric, confidence=confidence)


def value_of(answers: Answers, metric: Metric) -> float | None:
    """Return a model's value in a metric; None where it needs labels that were not packed, or is not defined."""
    if metric.is_accuracy and answers.right is not None:
        return float(answers.right.mean())
    return None if answers.labels is None else metric.measure(answers.predictions, answers.labels)


def compare_answers(
    first: Answers, second: Answers, metric: Metric, *, confidence: float
) -> PairedDifference | None:
    """Compare two models on the same texts: accuracies by the paired test, any other metric by a paired bootstrap.

    Returns:
        The comparison; None where the metric needs labels that were not packed.
    """
    right = None if first.right is None or second.right is None else (first.right, second.right)
    if metric.is_accuracy and right is not None:
        return compare_paired(*right, confidence=confidence, metric=metric.name)
    if first.labels is None:
        return None
    return compare_in_metric(
        first.predictions, second.predictions, first.labels, metric, confidence=confidence, right=right
    )


def share_changed(first: Answers, second: Answers, task: Task) -> float | None:
    """Return the share of texts whose prediction differs, 0 to 1; None where predictions are numbers."""
    changed = task.changed(first.predictions, second.predictions)
    return None if changed is None else float(changed.mean())


def _loss_finding(
    own: _ValidationValues,
    base: _ValidationValues,
    paired: PairedDifference | None,
    limit: str,
    config: ChooseConfig,
    metric: Metric,
) -> _Finding:
    allowed = getattr(config, limit)
    difference = metric.sign * (own.value - base.value)
    if config.strict and paired is None:
        raise RunFailedError(
            f"{own.name!r} or {base.name!r} has no predictions for the validation texts, which the paired test "
            "needs; measure them again, or remove export.choose.strict"
        )
    if paired is not None and paired.low >= -allowed - _ROUNDING:
        return _Finding("passed")
    limits = ""
    if paired is not None:
        limits = f" ({paired.low:+.4f} … {paired.high:+.4f} with {100 * paired.confidence:g} % confidence)"
    measured = f"validation {metric.title} {difference:+.4f} against {base.name}{limits}"
    if difference < -allowed - _ROUNDING:
        return _Finding("failed", f"{measured}, below -{allowed:g} ({limit})")
    more = None if paired is None else texts_to_show(paired, allowed)
    needed = "" if more is None else f"; about {more:,} more validation texts would"
    outcome = "failed" if config.strict else "inconclusive"
    return _Finding(outcome, f"{measured} does not show that it is within -{allowed:g} ({limit}){needed}")
