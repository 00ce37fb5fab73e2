"""Select among variants: the smallest value of one measurement among those within every limit, with reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..benchmark import targets
from ..benchmark.measure_models import Measurement
from ..config import ChooseConfig
from .gate import STUDENT, TEACHER, apply_gate

_WORSE = {"latency_ms": "slower", "size_mb": "larger", "peak_memory_mb": "more memory"}
_UNITS = {"latency_ms": "ms", "size_mb": "MB", "peak_memory_mb": "MB"}


@dataclass(frozen=True)
class VariantSelection:
    """Result of the selection among variants.

    Attributes:
        measurements: all measurements in order, those of variants with ``passed_gate`` and ``verdict``.
        chosen: name of the selected variant; None where no ONNX variant is within every limit.
        reason: why no variant was selected, with the reason for each; empty where one was.
    """

    measurements: list[Measurement]
    chosen: str | None
    reason: str = ""


def select_variant(
    measurements: Sequence[Measurement],
    config: ChooseConfig,
    *,
    student: str = STUDENT,
    teacher: str = TEACHER,
) -> VariantSelection:
    """Select the ONNX variant with the smallest ``config.minimise`` among those within every limit of ``config``.

    Ties go to the faster variant, then the smaller, then the first. The test split is not used.

    Args:
        measurements: all measurements, including the student's.
        config: the section ``export.choose``.
        student: name of the student's measurement.
        teacher: name of the teacher's measurement.

    Raises:
        RunFailedError: the measurements lack values that :func:`~distiltune.export.selection.gate.apply_gate` needs.
    """
    gated = [
        _bounded(measurement, config)
        for measurement in apply_gate(measurements, config, student=student, teacher=teacher)
    ]
    variants = [measurement for measurement in gated if targets.get(measurement.kind).can_be_sealed]
    kept = [
        measurement for measurement in variants if measurement.passed_gate and measurement.verdict is None
    ]
    if not kept:
        return VariantSelection(gated, None, _why_none(variants))
    names = (config.minimise, "latency_ms", "size_mb")
    best = min(kept, key=lambda measurement: tuple(_value(measurement, name) for name in names))
    return VariantSelection(
        [_compared(measurement, best, len(kept), config) for measurement in gated], best.name
    )


def _bounded(measurement: Measurement, config: ChooseConfig) -> Measurement:
    """Add every exceeded limit to a measurement's verdict; limits apply only to variants that can be sealed."""
    if not targets.get(measurement.kind).can_be_sealed:
        return measurement
    faults = [measurement.verdict] if measurement.verdict else []
    if measurement.passed_gate is None:
        faults.append("it has no validation accuracy")
    for name in _UNITS:
        most = getattr(config, f"max_{name}")
        if most is not None and _value(measurement, name) > most:
            faults.append(f"over max_{name} {most:g}: {_value(measurement, name):.4g}")
    return replace(measurement, verdict="; ".join(faults) or None)


def _compared(
    measurement: Measurement, best: Measurement, num_kept: int, config: ChooseConfig
) -> Measurement:
    """Return a measurement with a verdict that compares it with the selected one."""
    name = config.minimise
    least, own = _value(best, name), _value(measurement, name)
    if measurement.name == best.name:
        rivals = (
            f"the smallest of {num_kept} within every limit"
            if num_kept > 1
            else "the only one within every limit"
        )
        return replace(measurement, verdict=f"selected: {name} {least:.3f}, {rivals}")
    target = targets.get(measurement.kind)
    if target.is_gated and not target.can_be_sealed and measurement.verdict is None:
        return replace(measurement, verdict="for comparison only: only an ONNX graph can be sealed")
    if not target.can_be_sealed or measurement.verdict is not None:
        return measurement
    if own > least:
        return replace(
            measurement, verdict=f"{100 * (own / least - 1):.3g} % {_WORSE[name]} than {best.name}"
        )
    for other in ("latency_ms", "size_mb"):
        more = _value(measurement, other) - _value(best, other)
        if more > 0:
            verdict = f"same {name} as {best.name}, but {more:.3g} {_UNITS[other]} {_WORSE[other]}"
            return replace(measurement, verdict=verdict)
    return replace(measurement, verdict=f"the same as {best.name}, which comes first")


def _why_none(variants: Sequence[Measurement]) -> str:
    if not variants:
        return "no ONNX variant was measured, so none can be selected; add one to export.variants"
    reasons = "; ".join(f"{measurement.name}: {measurement.verdict}" for measurement in variants)
    return f"no ONNX variant is within every limit of export.choose: {reasons}; relax the limits, or build others"


def _value(measurement: Measurement, name: str) -> float:
    return measurement.latency_ms["p50"] if name == "latency_ms" else getattr(measurement, name)
