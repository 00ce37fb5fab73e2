"""The graph of a convolution over word pieces: all filters are one product over windows, quantizable to 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....training.models.convolution import (
    ConvolutionConfig,
    ConvolutionForSequenceClassification,
    ResidualBlock,
    WindowProduct,
)
from ..parts import BLOCKS, FILTERS
from ..writer import GraphWriter
from .attention_free import HIDDEN_LAYER_PART, MASK, TableRows, head, kept_positions, values
from .base import WrittenGraph, register


@dataclass(frozen=True)
class Window:
    """Consecutive positions around each position: ``left`` before it and ``right`` after it."""

    left: int
    right: int

    @classmethod
    def of(cls, products: Sequence[WindowProduct]) -> Window:
        """Return the smallest window that contains those of all products."""
        sizes = [each.window_size for each in products]
        return cls(max((size - 1) // 2 for size in sizes), max(size // 2 for size in sizes))

    @property
    def size(self) -> int:
        """Number of positions."""
        return self.left + self.right + 1

    def weight(self, product: WindowProduct) -> np.ndarray:
        """Return a product's weight[F, size * D], with zeros where the window is wider than its own."""
        weight, before = values(product.linear.weight), self.left - (product.window_size - 1) // 2
        num_columns = weight.shape[1] // product.window_size
        wide = np.zeros((len(weight), self.size * num_columns), dtype=np.float32)
        wide[:, before * num_columns : before * num_columns + weight.shape[1]] = weight
        return wide


def _write(writer: GraphWriter, model: ConvolutionForSequenceClassification) -> str:
    encoder: Any = model.encoder
    rows = TableRows(writer, encoder)
    kept = kept_positions(writer, MASK)
    x = None
    for number, block in enumerate(encoder.blocks):
        table = rows if x is None else None
        x = _block(writer, block, f"encoder.blocks.{number}", x or rows.of(rows.ids), kept, table)
    window = Window.of(encoder.filters)
    weight = np.concatenate([window.weight(each) for each in encoder.filters])
    bias = np.concatenate([values(each.linear.bias) for each in encoder.filters])
    windows = _windows_of_rows(writer, rows, window) if x is None else _side_by_side(writer, x, window)
    found = writer.linear(windows, "encoder.filters", weight, bias)
    pooled = _pooled(writer, found, kept, with_mean=model.config.pooling == "max_mean")
    return head(writer, model, pooled)


def _block(
    writer: GraphWriter, block: ResidualBlock, name: str, x: str, kept: str, rows: TableRows | None
) -> str:
    """Add a residual block over x[B, L, D]; ``rows`` is given where x are rows of the table."""
    window = Window.of([block.first])
    windows = _windows_of_rows(writer, rows, window) if rows is not None else _side_by_side(writer, x, window)
    inner = writer.linear(
        windows, f"{name}.first", window.weight(block.first), values(block.first.linear.bias)
    )
    second = block.second
    outer = writer.linear(
        writer.add("Relu", inner), f"{name}.second", values(second.weight), values(second.bias)
    )
    return writer.add("Mul", writer.add("Add", x, outer), kept)


def _windows_of_rows(writer: GraphWriter, rows: TableRows, window: Window) -> str:
    """Add the lookup of the rows of each window, side by side, float[B, L, size * D]; zeros beyond the text."""
    if window.size == 1:
        return rows.of(rows.ids)
    # Ids are moved instead of rows: that is faster, and rows in 8 bits go straight into a product.
    ids = _moved(writer, rows.ids, window, rows.zero)
    return writer.add("Concat", *(rows.of(each) for each in ids), axis=2)


def _side_by_side(writer: GraphWriter, x: str, window: Window) -> str:
    """Add the rows of each window of x[B, L, D] side by side, [B, L, size * D], with zeros beyond the text."""
    if window.size == 1:
        return x
    zero = writer.scalar(0.0, np.float32)
    return writer.add("Concat", *_moved(writer, x, window, zero, num_more_axes=1), axis=2)


def _moved(writer: GraphWriter, x: str, window: Window, fill: str, *, num_more_axes: int = 0) -> list[str]:
    """Add copies of x[B, L, ...] whose position i has the value at i + offset, for each offset of a window."""
    rest, found = [0] * num_more_axes, []
    for offset in range(-window.left, window.right + 1):
        before, after = max(-offset, 0), max(offset, 0)
        if not offset:
            found.append(x)
        elif abs(offset) == 1:
            # A pad of -1 drops a position, of which every text has at least one.
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


CONVOLUTION = register(
    WrittenGraph(
        model_type=ConvolutionConfig.model_type,
        write=_write,
        parts=(
            (r"\bencoder\.blocks\.(?P<layer>\d+)\.first\.", "block in", BLOCKS),
            (r"\bencoder\.blocks\.(?P<layer>\d+)\.second\.", "block out", BLOCKS),
            (r"\bencoder\.filters\.", "filters", FILTERS),
            HIDDEN_LAYER_PART,
        ),
    )
)
