"""Graphs in integers only, with fixed scales: the fastest form of a convolution over word pieces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ....errors import ExportError
from ..base import INT4_OPSET, Quantized, Source, Variant, VariantInputs, register
from ..rows import ids_of

MOST_TEXTS = 1000
_POOLING = "max"


def _integer(model: Any, target: Path, inputs: VariantInputs, *, table_bits: int) -> Quantized:
    from ...onnx.convert import save_onnx
    from ...onnx.integer.graph import write_integer_graph
    from ...onnx.integer.ranges import measure_ranges
    from ..dynamic import int8_products_saturate
    from ..model_files import pad_token_id
    from ..sensitivity import spread

    if not inputs.rows:
        raise ExportError(
            "onnx-integer: no training text to measure ranges on; add texts to data.train, or remove it from "
            "export.variants"
        )
    rows, padding = [ids_of(row) for row in inputs.rows], pad_token_id(model)
    reduce_range = int8_products_saturate()
    graph = write_integer_graph(
        model,
        measure_ranges(model, spread(rows, MOST_TEXTS)),
        bits=7 if reduce_range else 8,
        table_bits=table_bits,
        max_length=inputs.max_length,
        opset=max(inputs.opset, INT4_OPSET) if table_bits == 4 else inputs.opset,
        masked=any(padding in row for row in rows),
    )
    save_onnx(graph, target)
    return Quantized(reduce_range)


def _why_not(config: Mapping[str, Any]) -> str | None:
    from ....training.models.convolution import MODEL_TYPE

    model_type, pooling = config.get("model_type", ""), config.get("pooling")
    if model_type != MODEL_TYPE:
        return f"{model_type} is not a convolution over word pieces"
    return None if pooling == _POOLING else f"the student's pooling is {pooling}, not {_POOLING}"


def _remedy() -> str:
    return f"remove it from export.variants, or set student: {{kind: convolution, pooling: {_POOLING}}}"


INTEGER = Variant(
    "onnx-integer",
    "integers only, fixed scales, for convolutions whose pooling is max",
    Source.CHECKPOINT,
    partial(_integer, table_bits=8),
    weight_bits=8,
    activation_bits=8,
    tolerance=1.0,
    needs_texts=True,
    why_not=_why_not,
    remedy=_remedy,
)

register(
    INTEGER,
    replace(
        INTEGER,
        name="onnx-integer-embeddings-4bit",
        description="integers only, fixed scales, embeddings in 4 bits, for convolutions whose pooling is max",
        make=partial(_integer, table_bits=4),
        min_opset=INT4_OPSET,
    ),
)
