"""The sections ``training.pruning`` and ``training.quantization_aware`` of a job's specification."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from ..section import Section
from .pruning.base import PRUNING_RULES, PruningConfig


class QuantizationAwareConfig(Section):
    """Quantization-aware training in the last epochs, with the numerics of the quantized graph."""

    num_epochs: float = Field(
        default=2,
        gt=0,
        le=100_000,
        description="Number of last epochs with fake quantization; below 1: a share of all steps.",
    )
    weights: Literal["per_tensor", "per_channel"] = Field(
        default="per_tensor",
        description="One scale for each weight matrix, as in onnx-int8, or one for each of its columns.",
    )
    weight_bits: Literal[7, 8] = Field(
        default=8,
        description="Bits of a weight; 7 as in onnx-int8-reduced-range, and as in onnx-int8 if it is built on an "
        "x86 processor without VNNI.",
    )
    embedding_bits: Literal[4, 8] | None = Field(
        default=8,
        description="Bits of the embedding table: 4 as in onnx-int8-embeddings-4bit; null keeps 32.",
    )
    activations: Literal["dynamic", "none"] = Field(
        default="dynamic",
        description="dynamic: the inputs of matrix products are quantized to 8 bits by their range; none: they are "
        "not.",
    )


AnyPruningConfig = Annotated[PruningConfig, PRUNING_RULES.field(default="magnitude")]
"""The section of any pruning rule; magnitude pruning by default."""


def pruning_config(**values: Any) -> PruningConfig:
    """Return the section of the rule named by ``method``, magnitude pruning by default.

    Raises:
        ValidationError: A key or a value is rejected.
    """
    return TypeAdapter(AnyPruningConfig).validate_python(values)
