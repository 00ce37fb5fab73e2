"""The keys of the section ``export`` that configure how variants are made."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

from ...training.section import PositiveAmount, Section
from . import kinds
from .kinds.static import StaticConfig


class _Registered:
    """Pydantic annotation of a string: the name of a registered variant."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return core_schema.no_info_after_validator_function(_known, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> Any:
        found = kinds.variants()
        return {
            "type": "string",
            "enum": [each.name for each in found],
            "enumDescriptions": [each.description for each in found],
        }


def _known(name: str) -> str:
    if name not in kinds.names():
        raise ValueError(f"not a variant; {kinds.nearest(name)}")
    return name


VariantName = Annotated[str, _Registered()]


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
