"""Sealed artifacts of each kind of student, for runtimes other than our own."""

from pathlib import Path
from typing import Any

import pytest
from convolution_students import convolution_student, static_student
from models import tiny_classifier, tiny_data

from distiltune.export.artifact.seal import seal_artifact
from distiltune.export.config import ExportConfig
from distiltune.export.variants.build import build_variant

LABELS = ["balance", "transfer", "oos"]
SMALL = "onnx-int8-embeddings-4bit"
VARIANTS = {
    "transformer": ("onnx", SMALL),
    "convolution": ("onnx", SMALL),
    "maxima": ("onnx-integer", "onnx-integer-embeddings-4bit"),
    "static": ("onnx", SMALL),
    "pairs": ("onnx", SMALL),
}
"""Student → variants of it."""


def assert_equal(name: str, answers: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Compare another runtime's answers with ours.

    In dynamic 8 bits activations are rounded otherwise by other releases of ONNX Runtime and beside other texts, so
    that scores are close and a label may change.
    """
    is_dynamic = name.endswith(SMALL)
    if not is_dynamic:
        assert [each["label"] for each in answers] == [each["label"] for each in expected], name
    scores = [[each["score"] for each in side] for side in (answers, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=0.01 if is_dynamic else 1e-5), name


def sealed_students(directory: Path, max_length: int) -> dict[str, Path]:
    """Seal every variant of every student; returns the name of student and variant → its folder."""
    students = {
        "transformer": tiny_classifier(directory / "transformer", label_names=LABELS),
        "convolution": convolution_student(directory / "convolution"),
        "maxima": convolution_student(directory / "maxima", pooling="max", window_sizes=[2]),
        "static": static_student(directory / "static"),
        "pairs": static_student(directory / "pairs", hashed_bigrams=32),
    }
    texts = [text for text, _ in tiny_data()]
    sealed = {}
    for student, names in VARIANTS.items():
        for variant in names:
            name = f"{student}-{variant}"
            made, config = directory / name, ExportConfig()
            given = students[student]
            build_variant(variant, given, made, config=config, max_length=max_length, training_texts=texts)
            sealed[name] = seal_artifact(made, directory / "models" / name, made_from={}, measurements={})
    return sealed
