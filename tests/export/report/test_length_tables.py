"""Latency by number of tokens: the measurements shown, the table, the line for the terminal, and the card."""

from __future__ import annotations

from typing import Any

import pytest

from distiltune.export.artifact.card import model_card
from distiltune.export.markdown import NONE
from distiltune.export.report.length_tables import by_length, length_lines, length_table


def row(name: str, kind: str, times: dict[int, float] | None, **more: Any) -> dict[str, Any]:
    measured = (
        None if times is None else {str(num): {"p50": each, "mean": 9.0} for num, each in times.items()}
    )
    return {"name": name, "kind": kind, "length_ms": measured, **more}


ROWS = [
    row("teacher-pytorch", "pytorch", {32: 11.0, 128: 30.25, 512: 1160.0}),
    row("student-pytorch", "pytorch", {32: 4.0, 128: 12.0, 512: 60.0}),
    row("onnx", "onnx", {32: 2.0, 128: 7.0, 512: 30.0}),
    row("onnx-int8", "onnx", {32: 0.644, 128: 2.0, 512: 9.0, 2048: 51.5}),
    row("tfidf-svm", "baseline", {32: 0.4, 2048: 6.0}),
    row("teacher-file", "known-answers", None),
]


def test_the_chosen_variant_is_compared_with_models_in_pytorch_and_baselines() -> None:
    names = [each["name"] for each in by_length(ROWS, "onnx-int8")]
    assert names == ["teacher-pytorch", "student-pytorch", "onnx-int8", "tfidf-svm"]
    assert [each["name"] for each in by_length(ROWS, None)] == [each for each in names if each != "onnx-int8"]
    assert by_length([row("onnx", "onnx", None), row("teacher-pytorch", "pytorch", {})], "onnx") == []


def test_a_table_has_a_column_for_each_length_that_some_model_takes() -> None:
    head, _, *rows = length_table(ROWS, "onnx-int8").splitlines()
    assert head == "| model | 32 tokens, ms | 128 tokens, ms | 512 tokens, ms | 2,048 tokens, ms |"
    assert rows == [
        f"| teacher-pytorch | 11.00 | 30.25 | 1160.00 | {NONE} |",
        f"| student-pytorch | 4.00 | 12.00 | 60.00 | {NONE} |",
        "| **onnx-int8** | 0.64 | 2.00 | 9.00 | 51.50 |",
        f"| tfidf-svm | 0.40 | {NONE} | {NONE} | 6.00 |",
    ]


@pytest.mark.parametrize(("chosen", "num"), [("onnx-int8", 1), ("teacher-file", 0), (None, 0)])
def test_the_terminal_has_a_line_for_the_chosen_variant(chosen: str | None, num: int) -> None:
    lines = length_lines(ROWS, chosen)
    assert len(lines) == num
    expected = "32 tokens 0.64 ms, 128 tokens 2.00 ms, 512 tokens 9.00 ms, 2,048 tokens 51.50 ms"
    assert lines == [f"onnx-int8, one text of {expected}"][:num]


def test_a_card_has_the_median_of_each_length_alone() -> None:
    measured = {"accuracy": 0.9, "length_ms": ROWS[3]["length_ms"]}
    text = model_card(["a"], {}, measured)
    rows = [line for line in text.splitlines() if "tokens" in line and line.startswith("|")]
    assert rows == [
        f"| latency_ms of {num} tokens | {each} |"
        for num, each in ((32, 0.644), (128, 2), (512, 9), (2048, 51.5))
    ]
    for damaged in (None, "x", {"32": 4}, {"32": {"mean": 1.0}}):
        assert "tokens |" not in model_card(["a"], {}, {"accuracy": 0.9, "length_ms": damaged})
