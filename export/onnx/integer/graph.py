"""Write the graph of a convolution in integers: rows of the table in, logits out, and 8 bits between all nodes.

Windows are read by ONNX Runtime's integer convolution with columns last, which copies no rows side by side. Its
clipping to unsigned integers is ReLU. Where windows read rows of the table, padding costs no node: the rows of word
pieces have columns of ones, which the row of padding has not, and without them every filter is 0. Other windows are
multiplied by the mask. A graph without blocks needs no mask where texts contain no padding token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto

from ....training.compression.fake_quantization import block_steps
from ....training.models.attention_free import without_norm
from ....training.models.convolution import (
    ConvolutionForSequenceClassification,
    ResidualBlock,
    WindowProduct,
)
from ....training.models.tied_embedding_rows import rows_stored_once
from ..graphs.attention_free import IDS, MASK, PLACE, TABLE, values, whole_table
from ..graphs.convolution import Window
from ..writer import GraphWriter
from .quantized import (
    HIGHEST,
    ZERO_POINT,
    Layer,
    columns_for,
    constants,
    further_columns,
    joined,
    only_at_text,
    quantized,
    scale_of,
    steps_of,
    with_unused_columns,
    without_bias,
)
from .ranges import Ranges

_CONTRIB = "com.microsoft"
_POOL = 16  # positions of which a node keeps the maximum
_LEAST_LENGTH = 4096
_ROWS_AT_ONCE = 8192  # of the table, multiplied by all filters


def write_integer_graph(
    model: ConvolutionForSequenceClassification,
    ranges: Ranges,
    *,
    bits: int,
    table_bits: int,
    max_length: int,
    opset: int,
    masked: bool = False,
) -> onnx.ModelProto:
    """Return the graph of a model in evaluation mode, whose pooling is ``max``, for texts of at least one token.

    Args:
        model: The model.
        ranges: Ranges of its layers.
        bits: Of a weight in products, 7 or 8.
        table_bits: Of a value in the table, 4 or 8; ONNX Runtime expands 4 bits to 8 when it loads the graph.
        max_length: Number of tokens that the graph has to accept; it accepts at least 4,096.
        opset: ONNX opset version, at least 21 with a table of 4 bits.
        masked: Whether the mask tells text from padding, as always with blocks. If not, the padding token does, also
            within a text, and the graph has no mask.
    """
    masked = masked or model.config.num_blocks > 0
    graph = _IntegerGraph(model, ranges, bits, masked)
    return graph.write(_Table.of(model, table_bits, masked), max(max_length, _LEAST_LENGTH), opset)


@dataclass(frozen=True)
class _Table:
    """Rows of word pieces in 8 bits, ``scale * (row - 128)``.

    Attributes:
        rows: uint8[K, D], each different row once; row 0 of the graph is that of padding, and these follow it.
        place: Number of the row of each value that is looked up, int32[V], or [1 + V] with a mask; None: the value
            itself. The value is the id; with a mask it is the id plus one, and 0 for padding, whatever its id.
        scale: Scale of the rows.
        steps: float32[K, N, B], the same in 4 bits and N blocks; None where they are stored in 8.
        scales: float32[K, N, 1], scales of the blocks.
    """

    rows: np.ndarray
    place: np.ndarray | None
    scale: float
    steps: np.ndarray | None = None
    scales: np.ndarray | None = None

    @classmethod
    def of(cls, model: ConvolutionForSequenceClassification, bits: int, masked: bool) -> _Table:
        """Quantize a model's table, for a graph with or without a mask."""
        table, padding = whole_table(model.encoder), int(model.config.pad_token_id or 0)
        stored = rows_stored_once(table)
        rows, steps, scales = values((stored or table).weight), None, None
        place = None if stored is None else 1 + values(stored.place).astype(np.int32)
        if masked:
            place = None if place is None else np.append(np.int32(0), place)
        elif place is None and padding == 0:
            rows = rows[1:]
        else:
            place = np.arange(1, 1 + len(rows), dtype=np.int32) if place is None else place
            place[padding] = 0
        if bits == 4:
            found = block_steps(torch.from_numpy(rows.copy()))
            rows = (found[0] * found[1]).flatten(-2)[:, : rows.shape[1]].numpy()
            steps, scales = (each.numpy() for each in found)
        scale = np.float32(scale_of(float(np.abs(rows).max())))
        integers = np.clip(np.rint(rows / scale) + ZERO_POINT, 0, HIGHEST).astype(np.uint8)
        return cls(integers, place, float(scale), steps, scales)


@dataclass(frozen=True)
class _WindowLayer:
    """A product over windows, before columns of ones are added.

    Attributes:
        name: Name of its module.
        window: Its window.
        layer: Its weight [F, n, D], bias and multiplier.
        scale: Scale of its input.
        most_around_padding: Upper bound of its sums, in integers, around a position of padding; None where it does not
            read the table, and is masked instead.
    """

    name: str
    window: Window
    layer: Layer
    scale: float
    most_around_padding: float | None


class _IntegerGraph:
    def __init__(
        self, model: ConvolutionForSequenceClassification, ranges: Ranges, bits: int, masked: bool
    ) -> None:
        self._model, self._ranges, self._bits, self._masked = model, ranges, bits, masked
        self._writer = GraphWriter()
        self._num_ones = 1

    def write(self, table: _Table, max_length: int, opset: int) -> onnx.ModelProto:
        encoder: Any = self._model.encoder
        blocks: list[ResidualBlock] = list(encoder.blocks)
        names = [f"encoder.blocks.{number}" for number in range(len(blocks))]
        scales = [table.scale, *(scale_of(self._ranges.magnitude[name]) for name in names)]
        layers = []
        for number, block in enumerate(blocks):
            of_table = None if number else table
            name = f"{names[number]}.first"
            layers.append(self._window_layer(name, [block.first], [name], scales[number], of_table))
        filters = [f"encoder.filters.{number}" for number in range(len(encoder.filters))]
        of_table = None if blocks else table
        last = self._window_layer("encoder.filters", list(encoder.filters), filters, scales[-1], of_table)
        bound = (layers[0] if layers else last).most_around_padding or 0.0
        least = columns_for(bound, bits=self._bits)
        self._num_ones = least + further_columns(table.rows.shape[1] + least)
        x = self._rows(table)
        for name, block, layer, scale in zip(names, blocks, layers, scales[1:], strict=True):
            x = self._block(x, name, block, layer, scale)
        found = self._filtered(x, last, self._at_text(last))
        logits = self._head(self._maxima(found, max_length), self._steps(filters))
        return self._writer.graph(logits, self._model.num_labels, opset)

    def _window_layer(
        self, name: str, products: list[WindowProduct], modules: list[str], scale: float, table: _Table | None
    ) -> _WindowLayer:
        """Quantize products over windows as one; ``table`` is given where they read its rows."""
        window = Window.of(products)
        weight = np.concatenate([window.weight(each) for each in products])
        bias = np.concatenate([values(each.linear.bias) for each in products])
        weight = weight.reshape(len(weight), window.size, -1) * scale
        layer = quantized(weight, bias, self._steps(modules), bits=self._bits)
        most = None if table is None else _most_around_padding(layer, table.rows, window.left)
        return _WindowLayer(name, window, layer, scale, most)

    def _steps(self, modules: list[str]) -> np.ndarray:
        """Return the steps of the outputs of modules, side by side, float64[F]."""
        return steps_of(np.concatenate([self._ranges.largest[name] for name in modules]))

    def _at_text(self, layer: _WindowLayer) -> Layer:
        if layer.most_around_padding is None:
            return with_unused_columns(layer.layer, self._num_ones)
        return only_at_text(layer.layer, self._num_ones, layer.window.left, bits=self._bits)

    def _filtered(self, x: str, layer: _WindowLayer, at_text: Layer) -> str:
        """Add a product over windows of x, and ReLU: uint8[B, L, 1, F], 0 at padding."""
        found = self._convolution(x, layer.name, at_text, (ZERO_POINT, 0), layer.window)
        if layer.most_around_padding is not None:
            return found
        zero_and_one = np.array([0, 1], dtype=np.uint8).reshape(2, 1, 1)
        kept = self._writer.add("Gather", self._writer.weight("kept", zero_and_one), MASK)
        one, zero = self._one(), self._writer.scalar(0, np.uint8)
        given = (found, one, zero, kept, one, zero, one, zero)
        return self._writer.add("QLinearMul", *given, domain=_CONTRIB)

    def _rows(self, table: _Table) -> str:
        """Add the lookup of each token's row with its columns of ones, uint8[B, L, 1, D + ones]."""
        add, writer = self._writer.add, self._writer
        num_rows, width = table.rows.shape
        stored = self._stored_rows(table)
        ones, one_before = writer.integers(0, 0, 0, self._num_ones), writer.integers(1, 0, 0, 0)
        stored = add("Pad", stored, ones, writer.scalar(HIGHEST, np.uint8))
        # The first row is that of padding: zeros, without ones.
        stored = add("Pad", stored, one_before, writer.scalar(ZERO_POINT, np.uint8))
        stored = add("Reshape", stored, writer.integers(num_rows + 1, 1, width + self._num_ones))
        ids = add("Mul", MASK, add("Add", IDS, writer.scalar(1, np.int64))) if self._masked else IDS
        if table.place is not None:
            ids = add("Gather", writer.weight(PLACE, table.place), ids)
        return add("Gather", stored, ids)

    def _stored_rows(self, table: _Table) -> str:
        """Add the rows uint8[K, D], which ONNX Runtime expands from 4 bits when it loads the graph."""
        add, writer = self._writer.add, self._writer
        if table.steps is None or table.scales is None:
            return writer.weight(f"{TABLE}_quantized", table.rows)
        steps = add("Cast", writer.integers_of_4_bits(f"{TABLE}_4bit", table.steps), to=TensorProto.FLOAT)
        blocks = add("Mul", steps, writer.weight(f"{TABLE}_4bit_scales", table.scales))
        scale, zero = (
            writer.weight(f"{TABLE}_scale", np.array(table.scale, dtype=np.float32)),
            writer.scalar(ZERO_POINT, np.uint8),
        )
        rows = add(
            "Reshape", add("QuantizeLinear", blocks, scale, zero), writer.integers(len(table.rows), -1)
        )
        if table.steps[0].size == table.rows.shape[1]:
            return rows
        begin, end, axis = (writer.integers(value) for value in (0, table.rows.shape[1], 1))
        return add("Slice", rows, begin, end, axis)  # the last block is longer than the row

    def _convolution(self, x: str, name: str, layer: Layer, zeros: tuple[int, int], window: Window) -> str:
        """Add a product over windows of x[B, L, 1, D], uint8[B, L, 1, F]; ``zeros``: zero points of both."""
        weight = np.ascontiguousarray(layer.weight.transpose(0, 2, 1))[..., None]  # [F, D, n, 1]
        zero_in, zero_out = (self._writer.scalar(each, np.uint8) for each in zeros)
        one, (kernel, scale, zero_of_kernel, bias) = self._one(), self._constants(name, weight, layer)
        given = (x, one, zero_in, kernel, scale, zero_of_kernel, one, zero_out, bias)
        return self._writer.add(
            "QLinearConv",
            *given,
            domain=_CONTRIB,
            channels_last=1,
            kernel_shape=[window.size, 1],
            pads=[window.left, 0, window.right, 0],
        )

    def _constants(self, name: str, weight: np.ndarray, layer: Layer) -> tuple[str, str, str, str]:
        """Add a layer's weight, scales, zero points and bias."""
        add = self._writer.weight
        return (
            add(f"{name}.weight_quantized", weight),
            add(f"{name}.weight_scale", layer.multiplier),
            add(f"{name}.weight_zero_point", np.zeros(len(layer.bias), dtype=np.int8)),
            add(f"{name}.bias_quantized", layer.bias),
        )

    def _one(self) -> str:
        """Add the scale of activations: 1, because the multipliers of the layers contain their scales."""
        return self._writer.scalar(1.0, np.float32)

    def _block(self, x: str, name: str, block: ResidualBlock, first: _WindowLayer, scale: float) -> str:
        """Add a block over x, whose result has the scale ``scale`` and again columns of ones."""
        size, bits = self._model.config.hidden_size, self._bits
        inner = steps_of(self._ranges.largest[f"{name}.first"])
        outer = scale_of(self._ranges.magnitude[f"{name}.second"])
        second = quantized(values(block.second.weight) * inner, values(block.second.bias), outer, bits=bits)
        # At padding the result must be zero: the bias becomes a product with columns that are constant at text.
        second, constant = without_bias(second, self._num_ones, bits=bits)
        units = constants(size, self._num_ones, first.window.size, first.window.left, constant, bits=bits)
        inside = joined(self._at_text(first), units)
        found = self._filtered(x, first, inside)
        change = self._convolution(found, f"{name}.second", second, (0, ZERO_POINT), Window(0, 0))
        writer, zero = self._writer, self._writer.scalar(ZERO_POINT, np.uint8)
        scales = [writer.scalar(each, np.float32) for each in (first.scale, outer, scale)]
        given = (x, scales[0], zero, change, scales[1], zero, scales[2], zero)
        return writer.add("QLinearAdd", *given, domain=_CONTRIB)

    def _maxima(self, found: str, max_length: int) -> str:
        """Add the maximum of each filter over the positions, uint8[B, F] from uint8[B, L, 1, F]."""
        covered = 1
        while covered < max_length:
            # One node that reduces all positions takes several times as long as these together.
            found = self._writer.add(
                "NhwcMaxPool",
                found,
                domain=_CONTRIB,
                kernel_shape=[_POOL, 1],
                strides=[_POOL, 1],
                ceil_mode=1,
            )
            covered *= _POOL
        return self._writer.add("Squeeze", found, self._writer.integers(1, 2))

    def _head(self, pooled: str, steps: np.ndarray) -> str:
        """Add hidden layer and head over pooled[B, F] with a step for each column: the logits, float[B, C]."""
        model, bits = self._model, self._bits
        weight, bias = map(values, without_norm(model.norm, model.dense))
        inner = steps_of(self._ranges.largest["dense"])
        hidden = self._product(
            pooled, "dense", quantized(weight * steps, bias, inner, bits=bits), to_float=False
        )
        last = model.classifier
        scores = quantized(values(last.weight) * inner, values(last.bias), 1.0, bits=bits)
        return self._product(hidden, "classifier", scores, to_float=True)

    def _product(self, x: str, name: str, layer: Layer, *, to_float: bool) -> str:
        """Add a product of x, uint8[B, F]: with ReLU to uint8[B, H], or to floats."""
        one, zero = self._one(), self._writer.scalar(0, np.uint8)
        constants = self._constants(name, np.ascontiguousarray(layer.weight.T), layer)
        rest = () if to_float else (one, zero)
        return self._writer.add("QGemm", x, one, zero, *constants, *rest, domain=_CONTRIB)


def _most_around_padding(layer: Layer, rows: np.ndarray, center: int) -> float:
    """Return an upper bound of the sums of a window around a position of padding, for every text.

    Args:
        layer: Weight [F, n, D].
        rows: All rows of the table, uint8[K, D].
        center: The window's own position.
    """
    weight = torch.from_numpy(layer.weight.astype(np.float32))
    most = torch.from_numpy(layer.bias.astype(np.float32))
    for position in range(weight.shape[1]):
        if position == center:
            continue
        largest = torch.zeros(len(weight))
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = torch.from_numpy(rows[start : start + _ROWS_AT_ONCE].astype(np.float32) - ZERO_POINT)
            largest = torch.maximum(largest, (part @ weight[:, position].T).amax(dim=0))
        most += largest
    return max(float(most.max()), 0.0)
