"""The graph of a static student: the weighted mean and the maximum of rows of one table, for pieces and pairs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....training.models.static import HASH_FACTOR, StaticConfig, StaticForSequenceClassification
from ..writer import GraphWriter
from .attention_free import HIDDEN_LAYER_PART, IDS, MASK, TableRows, head, kept_positions
from .base import WrittenGraph, register

_END = np.iinfo(np.int64).max


def _write(writer: GraphWriter, model: StaticForSequenceClassification) -> str:
    encoder: Any = model.encoder
    config, ids, mask = encoder.config, IDS, MASK
    if config.hashed_bigrams:
        ids = writer.add("Concat", ids, _pairs(writer, config), axis=1)
        mask = writer.add("Concat", mask, _slice(writer, mask, 1, _END, axis=1), axis=1)
    table = TableRows(writer, encoder, ids)
    rows, size = table.of(table.ids), config.hidden_size
    x, weight = _slice(writer, rows, 0, size, axis=2), _slice(writer, rows, size, size + 1, axis=2)
    kept = kept_positions(writer, mask)
    weight = writer.add("Mul", writer.add("Exp", weight), kept)
    share = writer.add("LpNormalization", weight, axis=1, p=1)  # without any text it is zero
    mean = writer.add("MatMul", writer.add("Transpose", share, perm=[0, 2, 1]), x)
    positions = writer.integers(1)
    pooled = writer.add("Squeeze", mean, positions)
    if config.pooling == "max_mean":
        # max(relu(x)) = relu(max(x)), on M times fewer values.
        largest = writer.add("ReduceMax", writer.add("Mul", x, kept), positions, keepdims=0)
        pooled = writer.add("Concat", writer.add("Relu", largest), pooled, axis=1)
    return head(writer, model, pooled)


def _pairs(writer: GraphWriter, config: StaticConfig) -> str:
    """Add the rows of pairs of consecutive pieces, int64[B, L - 1]; :meth:`StaticModel.rows_of` has the formula."""
    first = _slice(writer, IDS, 0, -1, axis=1)
    second = _slice(writer, IDS, 1, _END, axis=1)
    product = writer.add("Mul", first, writer.scalar(HASH_FACTOR, np.int64))
    divisor = writer.scalar(config.hashed_bigrams, np.int64)
    hashed = writer.add("Mod", writer.add("Add", product, second), divisor)
    return writer.add("Add", hashed, writer.scalar(config.vocab_size, np.int64))


def _slice(writer: GraphWriter, x: str, start: int, end: int, *, axis: int) -> str:
    """Add ``x[..., start:end]`` of an axis."""
    return writer.add(
        "Slice", x, writer.integers(start), writer.integers(end), writer.integers(axis), writer.integers(1)
    )


STATIC = register(WrittenGraph(model_type=StaticConfig.model_type, write=_write, parts=(HIDDEN_LAYER_PART,)))
