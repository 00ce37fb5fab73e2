import pytest

from distiltune.errors import RunFailedError
from distiltune.export.choose import apply_gate, choose
from distiltune.export.rows import RowMeasurement


def row(
    name: str,
    kind: str = "onnx",
    validation: float | None = 0.95,
    p50: float = 1.0,
    size: float = 10.0,
    test: float | None = 0.9,
) -> RowMeasurement:
    times = {"mean": p50, "std": 0.0, "p50": p50, "p90": p50, "p99": p50}
    return RowMeasurement(
        name=name,
        kind=kind,  # pyright: ignore[reportArgumentType]
        size_mb=size,
        latency_ms=times,
        sample_latency_ms=times,
        throughput={"1": 1000 / p50},
        peak_memory_mb=100.0,
        num_threads=1,
        query="text",
        accuracy=test,
        validation_accuracy=validation,
    )


STUDENT = row("student-pytorch", "pytorch", p50=5.0)
OTHERS = [
    row("teacher-pytorch", "pytorch", 0.97, p50=9.0),
    row("reference-bert-base", "reference", None, p50=50.0, test=None),
]


def gate(*variants: RowMeasurement, drop: float = 0.01) -> dict[str, bool | None]:
    return {
        row.name: row.passed_gate for row in apply_gate([*OTHERS, STUDENT, *variants], max_accuracy_drop=drop)
    }


def test_the_gate_is_for_what_comes_of_the_student() -> None:
    assert gate(row("onnx"), row("student-pytorch-int8", "pytorch-int8", 0.5)) == {
        "teacher-pytorch": None,
        "reference-bert-base": None,
        "student-pytorch": True,
        "onnx": True,
        "student-pytorch-int8": False,
    }


def test_the_largest_drop_allowed_still_passes() -> None:
    passed = gate(row("at", validation=0.94), row("over", validation=0.9399), row("better", validation=0.99))
    assert (passed["at"], passed["over"], passed["better"]) == (True, False, True)
    assert gate(row("same"), row("less", validation=0.9499), drop=0.0)["less"] is False


def test_the_fastest_that_passes_is_chosen() -> None:
    rows = [
        row("slow", p50=2.0),
        row("fast", p50=0.5),
        row("fastest-but-wrong", validation=0.9, p50=0.1),
        row("student-pytorch-int8", "pytorch-int8", p50=0.2),
    ]
    assert choose(apply_gate([*OTHERS, STUDENT, *rows], max_accuracy_drop=0.01)) == "fast"


def test_the_smaller_wins_a_tie() -> None:
    rows = apply_gate([STUDENT, row("large", size=20.0), row("small", size=5.0)], max_accuracy_drop=0.01)
    assert choose(rows) == "small"


def test_the_test_split_decides_nothing() -> None:
    rows = [row("onnx", p50=2.0, test=1.0), row("onnx-int8", p50=1.0, test=0.0)]
    gated = apply_gate([STUDENT, *rows], max_accuracy_drop=0.0)
    assert all(row.passed_gate for row in gated)
    assert choose(gated) == "onnx-int8"


def test_none_that_passes_is_a_failed_run_with_reasons() -> None:
    rows = apply_gate([STUDENT, row("onnx-int8", validation=0.9)], max_accuracy_drop=0.01)
    with pytest.raises(RunFailedError, match=r"no ONNX variant passed.*\(0.9500\).*onnx-int8 0.0500"):
        choose(rows)
    with pytest.raises(RunFailedError, match="no ONNX variant was measured"):
        choose(apply_gate([STUDENT], max_accuracy_drop=0.01))
    with pytest.raises(RunFailedError, match="'student-pytorch' with its validation accuracy is missing"):
        apply_gate([row("onnx")], max_accuracy_drop=0.01)
