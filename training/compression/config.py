"""The sections ``training.pruning`` and ``training.quantization_aware`` of a job's specification."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from ..section import Section
from .pruning.base import PRUNING_RULES, PruningConfig


class QuantizationAwareConfig(Section):
    """Fake quantization in the last epochs, with the numerics of the quantized graph."""

    num_epochs: float = Field(
        default=2,
        gt=0,
        le=100_000,
        description="Last epochs that are trained so; below 1: a share of all steps.",
    )
    weights: Literal["per_tensor", "per_channel"] = Field(
        default="per_tensor",
        description="One scale for a weight matrix, as onnx-int8 has it, or one for each of its columns.",
    )
    weight_bits: Literal[7, 8] = Field(
        default=8,
        description="Bits of a weight; 7 as in onnx-int8-reduced-range, and as in onnx-int8 where that is made on an "
        "x86 processor without VNNI.",
    )
    embedding_bits: Literal[4, 8] | None = Field(
        default=8,
        description="Bits of the embedding table: 4 as in onnx-int8-embeddings-4bit; null leaves it in 32.",
    )
    activations: Literal["dynamic", "none"] = Field(
        default="dynamic",
        description="dynamic: what goes into a product is quantized to 8 bits by its range; none: it is not.",
    )


AnyPruningConfig = Annotated[PruningConfig, PRUNING_RULES.field(default="magnitude")]
"""The section of any pruning rule; magnitude pruning by default."""


def pruning_config(**values: Any) -> PruningConfig:
    """Return the section of the rule named by ``method``, magnitude pruning by default.

    Raises:
        ValidationError: A key or a value is rejected.
    """
    return TypeAdapter(AnyPruningConfig).validate_python(values)
