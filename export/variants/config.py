"""The keys of the section ``export`` that configure how variants are made."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ...training.section import PositiveAmount, Section
from ...training.section_registry import RegisteredName
from . import kinds
from .kinds.static import StaticConfig

VariantName = Annotated[str, RegisteredName(kinds.variants, "a variant")]


class VariantsConfig(Section):
    """Which variants to build, and how."""

    variants: list[VariantName] = Field(
        default_factory=lambda: [
            "student-pytorch-int8",
            "onnx",
            "onnx-fused",
            "onnx-int8",
            "onnx-int8-per-channel",
        ],
        min_length=1,
        max_length=100,
        description="Variants to build; student-pytorch is always measured.",
    )
    parity_tolerance: PositiveAmount = Field(
        default=1e-3,
        description="Maximum absolute difference of logits of a 32-bit ONNX variant from the student's.",
    )
    opset: int = Field(
        default=18,
        ge=18,
        le=99,
        description="ONNX opset of the graphs; 4-bit embeddings need 21 and always use at least that.",
    )
    static: StaticConfig = Field(
        default_factory=StaticConfig, description="Which parts the onnx-static variants keep in 32 bits."
    )
    sensitivity: bool = Field(
        default=False,
        description="Measure on training texts the error of each part of the graph in 8 bits, for the report: for "
        "onnx-int8, onnx-int8-per-channel and the onnx-static variants.",
    )
