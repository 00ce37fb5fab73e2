"""Select among variants: the smallest value of one measurement among those within every limit, with reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..benchmark import targets
from ..benchmark.rows import RowMeasurement
from ..config import ChooseConfig
from .gate import STUDENT, TEACHER, apply_gate

_WORSE = {"latency_ms": "slower", "size_mb": "larger", "peak_memory_mb": "more memory"}
_UNITS = {"latency_ms": "ms", "size_mb": "MB", "peak_memory_mb": "MB"}


@dataclass(frozen=True)
class Choice:
    """Result of the selection among variants.

    Attributes:
        rows: the measured rows in order, each variant with ``passed_gate`` and ``verdict``.
        chosen: name of the chosen row; None where no ONNX variant is within every limit.
        reason: why no row was chosen, with the reason for each; empty where one was.
    """

    rows: list[RowMeasurement]
    chosen: str | None
    reason: str = ""


def choose(
    rows: Sequence[RowMeasurement],
    config: ChooseConfig,
    *,
    student: str = STUDENT,
    teacher: str = TEACHER,
) -> Choice:
    """Select the ONNX row with the smallest ``config.minimise`` among those within every limit of ``config``.

    Ties go to the faster row, then the smaller, then the first. The test split is not used.

    Args:
        rows: every measured row, including the student's.
        config: the section ``export.choose``.
        student: name of the student's row.
        teacher: name of the teacher's row.

    Raises:
        RunFailedError: the rows lack values that :func:`~distiltune.export.selection.gate.apply_gate` needs.
    """
    gated = [_bounded(row, config) for row in apply_gate(rows, config, student=student, teacher=teacher)]
    variants = [row for row in gated if targets.get(row.kind).can_be_sealed]
    kept = [row for row in variants if row.passed_gate and row.verdict is None]
    if not kept:
        return Choice(gated, None, _why_none(variants))
    names = (config.minimise, "latency_ms", "size_mb")
    best = min(kept, key=lambda row: tuple(_value(row, name) for name in names))
    return Choice([_compared(row, best, len(kept), config) for row in gated], best.name)


def _bounded(row: RowMeasurement, config: ChooseConfig) -> RowMeasurement:
    """Add every exceeded limit to a row's verdict; limits apply only to rows that can be chosen."""
    if not targets.get(row.kind).can_be_sealed:
        return row
    faults = [row.verdict] if row.verdict else []
    if row.passed_gate is None:
        faults.append("it has no validation accuracy")
    for name in _UNITS:
        most = getattr(config, f"max_{name}")
        if most is not None and _value(row, name) > most:
            faults.append(f"over max_{name} {most:g}: {_value(row, name):.4g}")
    return replace(row, verdict="; ".join(faults) or None)


def _compared(
    row: RowMeasurement, best: RowMeasurement, num_kept: int, config: ChooseConfig
) -> RowMeasurement:
    """Return a row with a verdict that compares it with the chosen one."""
    name = config.minimise
    least, own = _value(best, name), _value(row, name)
    if row.name == best.name:
        rivals = (
            f"the least of {num_kept} that keep every limit" if num_kept > 1 else "alone keeps every limit"
        )
        return replace(row, verdict=f"chosen: {name} {least:.3f}, {rivals}")
    target = targets.get(row.kind)
    if target.is_gated and not target.can_be_sealed and row.verdict is None:
        return replace(row, verdict="for comparison only: what is sealed is an ONNX graph")
    if not target.can_be_sealed or row.verdict is not None:
        return row
    if own > least:
        return replace(row, verdict=f"{100 * (own / least - 1):.3g} % {_WORSE[name]} than {best.name}")
    for other in ("latency_ms", "size_mb"):
        more = _value(row, other) - _value(best, other)
        if more > 0:
            verdict = f"same {name} as {best.name}, but {more:.3g} {_UNITS[other]} {_WORSE[other]}"
            return replace(row, verdict=verdict)
    return replace(row, verdict=f"the same as {best.name}, which comes first")


def _why_none(variants: Sequence[RowMeasurement]) -> str:
    if not variants:
        return "no ONNX variant was measured, so none can be chosen; add one to export.variants"
    reasons = "; ".join(f"{row.name}: {row.verdict}" for row in variants)
    return f"no ONNX variant keeps every limit of export.choose: {reasons}. Relax the limits, or make other variants"


def _value(row: RowMeasurement, name: str) -> float:
    return row.latency_ms["p50"] if name == "latency_ms" else getattr(row, name)
