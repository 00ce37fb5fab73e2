"""The gate and the choice among variants, by validation accuracy and measured latency alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import RunFailedError
from .rows import RowMeasurement

STUDENT = "student-pytorch"
_ROUNDING = 1e-9


def apply_gate(
    rows: Sequence[RowMeasurement], *, max_accuracy_drop: float, student: str = STUDENT
) -> list[RowMeasurement]:
    """Mark whether each row made from the student keeps the student's validation accuracy.

    Args:
        rows: every measured row, in any order, the student's among them.
        max_accuracy_drop: most validation accuracy (a fraction) that a variant may lose and still pass.
        student: name of the student's row.

    Returns:
        The rows in their order, ``passed_gate`` set on the student and its variants and ``None`` on the
        teacher and the reference, which the gate is not for.

    Raises:
        RunFailedError: the student's row is missing or has no validation accuracy.
    """
    baseline = _validation_accuracy(rows, student)
    gated = []
    for row in rows:
        if _is_variant(row, student) and row.validation_accuracy is not None:
            drop = baseline - row.validation_accuracy
            gated.append(replace(row, passed_gate=drop <= max_accuracy_drop + _ROUNDING))
        else:
            gated.append(row)
    return gated


def choose(rows: Sequence[RowMeasurement], *, student: str = STUDENT) -> str:
    """Name of the fastest ONNX row that passed the gate: least p50 latency of the query, then least size.

    Args:
        rows: what :func:`apply_gate` returned.
        student: name of the student's row, for the message.

    Raises:
        RunFailedError: no ONNX variant passed; the message gives each one's loss.
    """
    variants = [row for row in rows if row.kind == "onnx"]
    passed = [row for row in variants if row.passed_gate]
    if passed:
        return min(passed, key=lambda row: (row.latency_ms["p50"], row.size_mb)).name
    if not variants:
        raise RunFailedError(
            "no ONNX variant was measured, so none can be chosen; add one to export.variants"
        )
    baseline = _validation_accuracy(rows, student)
    losses = ", ".join(f"{row.name} {baseline - (row.validation_accuracy or 0.0):.4f}" for row in variants)
    raise RunFailedError(
        f"no ONNX variant passed the gate; validation accuracy lost against {student} ({baseline:.4f}): "
        f"{losses}; raise export.max_accuracy_drop or make other variants"
    )


def _is_variant(row: RowMeasurement, student: str) -> bool:
    return row.name == student or row.kind in ("onnx", "pytorch-int8")


def _validation_accuracy(rows: Sequence[RowMeasurement], student: str) -> float:
    for row in rows:
        if row.name == student and row.validation_accuracy is not None:
            return row.validation_accuracy
    raise RunFailedError(
        f"row {student!r} with its validation accuracy is missing; the gate compares with it"
    )
