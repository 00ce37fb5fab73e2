"""The gate: check each measured variant against the limits on validation accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from ...errors import ConfigError, RunFailedError
from ..benchmark import targets
from ..benchmark.measure_models import Measurement
from ..benchmark.predictions import Answers, unpack_answers
from ..config import ChooseConfig
from .paired_test import PairedDifference, compare_paired

STUDENT = "student-pytorch"
TEACHER = "teacher-pytorch"
_ROUNDING = 1e-9


@dataclass(frozen=True)
class _ValidationValues:
    """The values that the gate uses of one measurement."""

    name: str
    accuracy: float
    answers: Answers | None


def check_gate(config: ChooseConfig, num_texts: int, *, has_threshold: bool) -> None:
    """Reject, before training, a gate that no variant can pass or that lacks the data to be applied.

    Args:
        config: The section ``export.choose``.
        num_texts: Number of texts in the validation split.
        has_threshold: Whether the variants get an out-of-scope threshold.

    Raises:
        ConfigError: The gate cannot be used; the message names what to set instead.
    """
    if config.accuracy == "with_threshold" and not has_threshold:
        raise ConfigError(
            "export.choose.accuracy: with_threshold given, but this data has no out-of-scope threshold; remove the "
            "key, or set export.out_of_scope.label and max_in_scope_refused"
        )
    if config.gate == "point":
        return
    allowed = config.max_drop_from_student
    z2 = NormalDist().inv_cdf(config.confidence) ** 2
    least = z2 / (num_texts + z2)  # limit of a variant that changes no prediction: paired_test.score_limits
    if allowed is not None and allowed < least:
        more = f", use {math.ceil(z2 * (1 - allowed) / allowed):,} texts" if allowed else ""
        raise ConfigError(
            f"export.choose.max_drop_from_student: {allowed:g} given, but {num_texts:,} validation texts cannot "
            f"show, "
            f"with confidence {config.confidence:g}, that even a variant with unchanged predictions loses less "
            f"than {least:.4f}; raise it{more}, or set export.choose.gate: point, which uses the measured difference"
        )


def apply_gate(
    measurements: Sequence[Measurement],
    config: ChooseConfig,
    *,
    student: str = STUDENT,
    teacher: str = TEACHER,
) -> list[Measurement]:
    """Compare each model made from the student with the student and the teacher on the validation split.

    A model is within an allowed drop under ``non_inferior`` when the lower confidence limit of the difference, variant
    minus student on the same texts, is at least minus the drop; under ``point`` when the difference itself is.

    Args:
        measurements: all measurements, in any order, including the student's.
        config: the section ``export.choose``.
        student: name of the student's measurement.
        teacher: name of the teacher's measurement.

    Returns:
        The measurements in the same order. Student and variants get ``passed_gate``, a ``verdict`` with every reason
        where that is False, and, where they have predictions, ``against_student``, ``against_teacher`` and
        ``predictions_changed``. The gate does not apply to teacher and reference, which are returned unchanged.

    Raises:
        RunFailedError: a required measurement, its validation accuracy, or its predictions are missing.
    """
    values = {
        measurement.name: found
        for measurement in measurements
        if (found := _validation_values(measurement, config)) is not None
    }
    for name in (student, *([teacher] if config.max_drop_from_teacher is not None else [])):
        if name not in values:
            raise RunFailedError(
                f"the validation accuracy of {name!r} is missing, and the gate compares with it"
            )
    return [
        _judge(measurement, values, config, student, teacher)
        if measurement.name in values
        and (measurement.name == student or targets.get(measurement.kind).is_gated)
        else measurement
        for measurement in measurements
    ]


def _validation_values(measurement: Measurement, config: ChooseConfig) -> _ValidationValues | None:
    if config.accuracy == "with_threshold":
        accuracy = (measurement.with_threshold or {}).get("validation_accuracy")
    else:
        accuracy = measurement.validation_accuracy
    packed = (measurement.answers or {}).get(config.accuracy)
    if accuracy is None:
        return None
    return _ValidationValues(measurement.name, accuracy, packed and unpack_answers(packed))


def _judge(
    measurement: Measurement,
    values: dict[str, _ValidationValues],
    config: ChooseConfig,
    student: str,
    teacher: str,
) -> Measurement:
    own, faults = values[measurement.name], []
    compared: dict[str, PairedDifference | None] = {}
    for name, limit in ((student, "max_drop_from_student"), (teacher, "max_drop_from_teacher")):
        base = values.get(name)
        if base is not None and name != measurement.name:
            compared[name] = _compare(own, base, config.confidence)
            faults += _drop_faults(own, base, compared[name], limit, config)
    least = config.min_validation_accuracy
    if least is not None and own.accuracy < least - _ROUNDING:
        faults.append(f"validation accuracy {own.accuracy:.4f} below min_validation_accuracy {least:g}")
    given = values[student].answers
    changed = None
    if measurement.name != student and own.answers is not None and given is not None:
        changed = float((own.answers.predictions != given.predictions).mean())
    found = {name: None if paired is None else paired.to_json() for name, paired in compared.items()}
    return replace(
        measurement,
        passed_gate=not faults,
        verdict="; ".join(faults) or None,
        against_student=found.get(student),
        against_teacher=found.get(teacher),
        predictions_changed=changed,
    )


def _compare(own: _ValidationValues, base: _ValidationValues, confidence: float) -> PairedDifference | None:
    if own.answers is None or base.answers is None:
        return None
    first, second = own.answers.right, base.answers.right
    if len(first) != len(second):
        raise RunFailedError(
            f"{own.name!r} and {base.name!r} were measured on {len(first)} and {len(second)} validation texts; "
            "measure them again"
        )
    return compare_paired(first, second, confidence=confidence)


def _drop_faults(
    own: _ValidationValues,
    base: _ValidationValues,
    paired: PairedDifference | None,
    limit: str,
    config: ChooseConfig,
) -> list[str]:
    allowed = getattr(config, limit)
    if allowed is None:
        return []
    difference = own.accuracy - base.accuracy
    known, reached = "", difference
    if config.gate == "non_inferior":
        if paired is None:
            raise RunFailedError(
                f"{own.name!r} or {base.name!r} has no predictions for the validation texts, which the paired test "
                "needs; measure them again, or set export.choose.gate: point"
            )
        known = f" ({paired.low:+.4f} … {paired.high:+.4f} with {100 * paired.confidence:g} % confidence)"
        reached = paired.low
    if reached >= -allowed - _ROUNDING:
        return []
    below = "below" if difference < -allowed - _ROUNDING else "which may be below"
    return [
        f"validation accuracy {difference:+.4f} against {base.name}{known}, {below} -{allowed:g} ({limit})"
    ]
