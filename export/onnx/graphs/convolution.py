"""The graph of a convolution over word pieces: all filters are one product over windows, quantizable to 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from ....training.models.convolution import (
    ConvolutionConfig,
    ConvolutionForSequenceClassification,
    ResidualBlock,
    WindowProduct,
)
from ....training.models.tied_embedding_rows import rows_stored_once
from ..parts import BLOCKS, FILTERS, HIDDEN_LAYER
from ..writer import INPUT_NAMES, GraphWriter
from .base import WrittenGraph, register

_IDS, _MASK = INPUT_NAMES
_TABLE, _PLACE = "encoder.word_embeddings.weight", "encoder.word_embeddings.place"


@dataclass(frozen=True)
class _Window:
    """Consecutive positions around each position: ``left`` before it and ``right`` after it."""

    left: int
    right: int

    @classmethod
    def of(cls, products: Sequence[WindowProduct]) -> _Window:
        """Return the smallest window that contains those of all products."""
        sizes = [each.window_size for each in products]
        return cls(max((size - 1) // 2 for size in sizes), max(size // 2 for size in sizes))

    @property
    def size(self) -> int:
        return self.left + self.right + 1

    def weight(self, product: WindowProduct) -> np.ndarray:
        """Return a product's weight[F, size * D], with zeros where the window is wider than its own."""
        weight, before = _values(product.linear.weight), self.left - (product.window_size - 1) // 2
        num_columns = weight.shape[1] // product.window_size
        wide = np.zeros((len(weight), self.size * num_columns), dtype=np.float32)
        wide[:, before * num_columns : before * num_columns + weight.shape[1]] = weight
        return wide


class _Rows:
    """Write the rows of the word pieces of a text, and of the windows around them."""

    def __init__(self, writer: GraphWriter, table: nn.Embedding, padding: int) -> None:
        self._writer, self._ids = writer, _IDS
        stored, dtype = rows_stored_once(table), np.dtype(np.int64)
        values = _values((stored or table).weight)
        if stored is not None:
            place = _values(stored.place)
            padding, dtype = int(place[padding]), place.dtype
            self._ids = writer.add("Gather", writer.weight(_PLACE, place), _IDS)
        if values[padding].any():
            values, padding = np.concatenate([values, np.zeros_like(values[:1])]), len(values)
        self._table, self._zero = writer.weight(_TABLE, values), writer.scalar(padding, dtype)

    def of_pieces(self) -> str:
        """Add the lookup of each piece's row, float[B, L, D]."""
        return self._writer.add("Gather", self._table, self._ids)

    def of_windows(self, window: _Window) -> str:
        """Add the lookup of the rows of each window, side by side, float[B, L, size * D]; zeros beyond the text."""
        if window.size == 1:
            return self.of_pieces()
        # Ids are moved instead of rows: that is faster, and rows in 8 bits go straight into a product.
        ids = _moved(self._writer, self._ids, window, self._zero)
        return self._writer.add(
            "Concat", *(self._writer.add("Gather", self._table, each) for each in ids), axis=2
        )


def _write(writer: GraphWriter, model: ConvolutionForSequenceClassification) -> str:
    encoder: Any = model.encoder
    add = writer.add
    rows = _Rows(
        writer, _whole_table(encoder.word_embeddings, encoder.config.vocab_size), model.config.pad_token_id
    )
    # float[B, L, 1] in one node. From a node, because quantizers would quantize a table among the weights.
    zero_and_one = add("Constant", value=numpy_helper.from_array(np.array([[0], [1]], dtype=np.float32)))
    kept = add("Gather", zero_and_one, _MASK)
    x = None
    for number, block in enumerate(encoder.blocks):
        table = rows if x is None else None
        x = _block(writer, block, f"encoder.blocks.{number}", x or rows.of_pieces(), kept, table)
    window = _Window.of(encoder.filters)
    weight = np.concatenate([window.weight(each) for each in encoder.filters])
    bias = np.concatenate([_values(each.linear.bias) for each in encoder.filters])
    windows = rows.of_windows(window) if x is None else _side_by_side(writer, x, window)
    found = writer.linear(windows, "encoder.filters", weight, bias)
    pooled = _pooled(writer, found, kept, with_mean=model.config.pooling == "max_mean")
    hidden = add("Relu", writer.linear(pooled, "dense", *_without_norm(model.norm, model.dense)))
    head = model.classifier
    return writer.linear(hidden, "classifier", _values(head.weight), _values(head.bias))


def _whole_table(table: nn.Module, num_pieces: int) -> nn.Embedding:
    """Return the rows of all pieces; a model that has just been trained may hold only some of them."""
    if type(table) is nn.Embedding:
        return table
    with torch.no_grad():
        return nn.Embedding.from_pretrained(table(torch.arange(num_pieces)))


def _block(
    writer: GraphWriter, block: ResidualBlock, name: str, x: str, kept: str, rows: _Rows | None
) -> str:
    """Add a residual block over x[B, L, D]; ``rows`` looks up the windows where x are rows of the table."""
    window = _Window.of([block.first])
    windows = rows.of_windows(window) if rows is not None else _side_by_side(writer, x, window)
    inner = writer.linear(
        windows, f"{name}.first", window.weight(block.first), _values(block.first.linear.bias)
    )
    second = block.second
    outer = writer.linear(
        writer.add("Relu", inner), f"{name}.second", _values(second.weight), _values(second.bias)
    )
    return writer.add("Mul", writer.add("Add", x, outer), kept)


def _side_by_side(writer: GraphWriter, x: str, window: _Window) -> str:
    """Add the rows of each window of x[B, L, D] side by side, [B, L, size * D], with zeros beyond the text."""
    if window.size == 1:
        return x
    zero = writer.scalar(0.0, np.float32)
    return writer.add("Concat", *_moved(writer, x, window, zero, num_more_axes=1), axis=2)


def _moved(writer: GraphWriter, x: str, window: _Window, fill: str, *, num_more_axes: int = 0) -> list[str]:
    """Add copies of x[B, L, ...] in which position i has what is at i + offset, for each offset of a window."""
    rest, found = [0] * num_more_axes, []
    for offset in range(-window.left, window.right + 1):
        before, after = max(-offset, 0), max(offset, 0)
        if not offset:
            found.append(x)
        elif abs(offset) == 1:
            # A pad of -1 drops a position; every text has one.
            pads = writer.integers(0, before - after, *rest, 0, after - before, *rest)
            found.append(writer.add("Pad", x, pads, fill))
        else:
            padded = writer.add("Pad", x, writer.integers(0, before, *rest, 0, after, *rest), fill)
            start, end = writer.integers(after), writer.integers(-before or np.iinfo(np.int64).max)
            found.append(writer.add("Slice", padded, start, end, writer.integers(1)))
    return found


def _pooled(writer: GraphWriter, found: str, kept: str, *, with_mean: bool) -> str:
    """Add the pooling of the filters found[B, L, F] over the positions kept[B, L, 1]: float[B, F or 2F]."""
    add, positions = writer.add, writer.integers(1)
    if not with_mean:
        # relu(max(x)) = max(relu(x)), on L times fewer values.
        return add("Relu", add("ReduceMax", add("Mul", found, kept), positions, keepdims=0))
    found = add("Relu", found)
    largest = add("ReduceMax", add("Mul", found, kept), positions, keepdims=0)
    # As a product, the mean takes a third of the time of a sum over positions. Without any text it is zero.
    share = add("LpNormalization", kept, axis=1, p=1)
    mean = add("MatMul", add("Transpose", share, perm=[0, 2, 1]), found)
    return add("Concat", largest, add("Squeeze", mean, positions), axis=1)


def _without_norm(norm: nn.BatchNorm1d, dense: nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    """Return weight[H, P] and bias[H] of ``dense(norm(x))``, which is one linear layer in evaluation mode."""
    mean, variance = _values(norm.running_mean).astype(np.float64), _values(norm.running_var)
    scale = _values(norm.weight) / np.sqrt(variance.astype(np.float64) + norm.eps)
    shift = _values(norm.bias) - mean * scale
    weight = _values(dense.weight).astype(np.float64)
    return (weight * scale).astype(np.float32), (_values(dense.bias) + weight @ shift).astype(np.float32)


def _values(tensor: Tensor | None) -> np.ndarray:
    assert tensor is not None
    return tensor.detach().cpu().numpy()


CONVOLUTION = register(
    WrittenGraph(
        model_type=ConvolutionConfig.model_type,
        write=_write,
        parts=(
            (r"\bencoder\.blocks\.(?P<layer>\d+)\.first\.", "block in", BLOCKS),
            (r"\bencoder\.blocks\.(?P<layer>\d+)\.second\.", "block out", BLOCKS),
            (r"\bencoder\.filters\.", "filters", FILTERS),
            (r"^model\.dense\.", "hidden layer", HIDDEN_LAYER),
        ),
    )
)
