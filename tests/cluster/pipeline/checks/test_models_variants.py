"""Variants that a job's students cannot have are refused before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest

from distiltune.cluster.pipeline.checks.models import check_models
from distiltune.cluster.specification.config import JobConfig
from distiltune.errors import ConfigError

CONVOLUTION = {"kind": "convolution", "hidden_size": 64}
STATIC = {"kind": "static", "hidden_size": 64}
KINDS = {
    "kind": {"type": "choice", "values": ["layers", "convolution"]},
    "hidden_size": {"type": "choice", "values": [64]},
    "pooling": {"type": "choice", "values": ["max"]},
}
MAX = {"type": "choice", "values": ["max"]}
BOTH = {"type": "choice", "values": ["max", "max_mean"]}
FREE = {"type": "choice", "values": ["static", "convolution"]}


def of_two(kind: str, *poolings: str) -> dict[str, Any]:
    """Search both kinds without attention, and these poolings of one of them."""
    return {
        "kind": FREE,
        "pooling": {"type": "choice", "values": [*poolings], "when": {"student.kind": [kind]}},
    }


def job(student: dict[str, Any], variants: list[str] | None, **space: Any) -> JobConfig:
    return JobConfig.model_validate(
        {
            "student": student,
            "search": {"space": {f"student.{key}": each for key, each in space.items()}},
            **({} if variants is None else {"export": {"variants": variants}}),
        }
    )


@pytest.mark.parametrize(
    ("student", "variants", "space"),
    [
        ({"layers": [0]}, None, {}),
        (CONVOLUTION, None, {}),
        (STATIC, None, {}),
        ({**CONVOLUTION, "pooling": "max"}, ["onnx-integer"], {}),
        (CONVOLUTION, ["onnx-integer"], {"pooling": MAX}),
        (CONVOLUTION, ["onnx-integer", "onnx"], {"pooling": BOTH}),
        ({"layers": [0]}, ["onnx-integer", "onnx"], KINDS),
        (STATIC, ["onnx"], of_two("convolution", "max", "max_mean")),
        (CONVOLUTION, ["onnx"], of_two("static", "mean", "max_mean")),
        ({**CONVOLUTION, "pooling": "max"}, ["onnx"], {"kind": FREE}),
    ],
)
def test_what_some_student_can_have_is_accepted(student, variants, space) -> None:
    check_models(job(student, variants, **space))


@pytest.mark.parametrize(
    ("student", "variants", "space", "message"),
    [
        (
            CONVOLUTION,
            ["onnx", "onnx-integer"],
            {},
            r"onnx-integer given, but the student's pooling is max_mean, not max; remove it from export\.variants, or "
            r"set student: \{kind: convolution, pooling: max\}",
        ),
        (STATIC, ["onnx-integer"], {}, "onnx-integer given, but distiltune-static is not a convolution"),
        (
            CONVOLUTION,
            ["onnx", "onnx-fused", "onnx-integer"],
            {},
            "onnx-fused, onnx-integer given, but .* has no attention to fuse; the student's pooling is .*; remove the",
        ),
        (
            CONVOLUTION,
            ["onnx-integer", "student-pytorch-int8"],
            {"pooling": BOTH},
            r"onnx-integer, student-pytorch-int8 given, as none of which a student of kind convolution can be sealed "
            r"\(the student's pooling is max_mean, not max\); add onnx",
        ),
        (
            {"layers": [0]},
            ["onnx-integer"],
            KINDS,
            "onnx-integer given, as none of which a student of kind layers can be sealed .bert is not a convolution",
        ),
    ],
)
def test_what_no_student_can_have_or_leaves_one_without_an_artifact_is_refused(
    student, variants, space, message
) -> None:
    with pytest.raises(ConfigError, match=rf"^export\.variants: {message}"):
        check_models(job(student, variants, **space))


def test_of_layers_what_they_cannot_have_is_left_out_with_a_warning(caplog) -> None:
    check_models(job({"layers": [0]}, ["onnx", "onnx-integer"]))
    assert [each.message for each in caplog.records] == [
        "export.variants: onnx-integer given, but bert is not a convolution over word pieces; not exported"
    ]
