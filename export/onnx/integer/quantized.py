"""Quantize the layers of a convolution: integers of 8 bits in and out, and one scale for each column of a weight.

An activation after ReLU is ``step[f] * integer``, 0 to 255, with a step for each column f, which the next layer's
weight contains. Other activations, rows of the table and sums of blocks, are ``scale * (integer - 128)``. Shapes: D
columns of a word piece, F filters, n positions of a window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

ZERO_POINT, HIGHEST = 128, 255
SPAN = HIGHEST - ZERO_POINT
"""Steps from the zero point of an activation to its largest value."""
_LEAST_SHARE = 0.01  # of the largest column: the next layer's weights then differ by at most this factor
_MOST_BIAS = 2.0**20  # so that constants or columns of ones can add it
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Layer:
    """A product with integer weights: ``round((weight @ x + bias) * multiplier)``, limited to 0 to 255.

    Attributes:
        weight: int8[F, ...].
        bias: int32[F].
        multiplier: float32[F].
    """

    weight: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray


def steps_of(largest: np.ndarray) -> np.ndarray:
    """Return the step of each column after ReLU from its largest value, float64[F].

    A column that is 0 on all texts gets a small step, too: the next layer's weight contains it, and a large one there
    would leave nothing of the others.
    """
    values = np.asarray(largest, dtype=np.float64)
    most = float(values.max(initial=0.0))
    return np.maximum(values, _LEAST_SHARE * most if most > _TINY else HIGHEST) / HIGHEST


def scale_of(magnitude: float) -> float:
    """Return the scale of an activation with both signs from its largest absolute value."""
    return magnitude / SPAN if magnitude > _TINY else 1.0


def quantized(weight: np.ndarray, bias: np.ndarray, step: float | np.ndarray, *, bits: int) -> Layer:
    """Quantize a product whose result has the step ``step``, or one for each column.

    Weights are symmetric with a scale for each row, its largest magnitude, or more where the bias is very large.

    Args:
        weight: float[F, ...], for an input in integers, whose scale it contains.
        bias: float[F].
        step: As above.
        bits: Of a weight: 8, or 7 where sums of two products may overflow.
    """
    limit, magnitudes = highest_weight(bits), np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    scale = np.maximum(magnitudes.astype(np.float64) / limit, np.abs(bias) / _MOST_BIAS)
    scale[scale < _TINY] = 1.0
    integers = np.clip(np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1))), -limit, limit)
    biases = np.rint(bias / scale).astype(np.int32)
    return Layer(integers.astype(np.int8), biases, (scale / step).astype(np.float32))


def highest_weight(bits: int) -> int:
    """Return the largest weight in 7 or 8 bits."""
    return 127 if bits == 8 else 64


def columns_for(largest_sum: float, *, bits: int) -> int:
    """Return how many columns of ones, each times the largest weight, are at least ``largest_sum``."""
    return max(1, math.ceil(largest_sum / (SPAN * highest_weight(bits))))


def further_columns(num_columns: int) -> int:
    """Return how many columns an input of so many should have more: fast kernels need a multiple of four."""
    return -num_columns % 4


def only_at_text(layer: Layer, num_ones: int, center: int, *, bits: int) -> Layer:
    """Let a product over windows be 0 around padding, by the columns of ones that positions with text have.

    At a position with text the columns add what the bias loses; at padding they are 0, and the sum is negative.

    Args:
        layer: Weight [F, n, D].
        num_ones: Number of columns of ones after the D columns, each ``SPAN`` at text.
        center: The window's own position, 0 to n - 1.
        bits: As for :func:`quantized`.
    """
    num_filters, size, _ = layer.weight.shape
    ones = np.zeros((num_filters, size, num_ones), dtype=np.int8)
    ones[:, center] = highest_weight(bits)
    added = num_ones * SPAN * highest_weight(bits)
    return Layer(np.concatenate([layer.weight, ones], axis=2), layer.bias - np.int32(added), layer.multiplier)


def with_unused_columns(layer: Layer, num_ones: int) -> Layer:
    """Let a product over windows, weight [F, n, D], ignore the columns of ones after the D columns."""
    return Layer(np.pad(layer.weight, ((0, 0), (0, 0), (0, num_ones))), layer.bias, layer.multiplier)


def constants(
    num_columns: int, num_ones: int, size: int, center: int, values: list[int], *, bits: int
) -> Layer:
    """Return filters over windows that are constants at text, ``values``, and 0 at padding; see ``only_at_text``."""
    weight = np.zeros((len(values), size, num_columns + num_ones), dtype=np.int8)
    weight[:, center, num_columns:] = highest_weight(bits)
    multiplier = np.array(values) / (num_ones * SPAN * highest_weight(bits))
    return Layer(weight, np.zeros(len(values), dtype=np.int32), multiplier.astype(np.float32))


def without_bias(layer: Layer, num_ones: int, *, bits: int) -> tuple[Layer, list[int]]:
    """Replace a layer's bias by weights of further inputs that are constants at text, and add columns of ones.

    Args:
        layer: Weight [D, H].
        num_ones: Number of columns of ones after the D columns.
        bits: As for :func:`quantized`.

    Returns:
        The layer, weight [D + num_ones, 1, H + U], and the values of the U constants.
    """
    limit, (size, num_inputs) = highest_weight(bits), layer.weight.shape
    whole = np.rint(layer.bias / HIGHEST).astype(np.int64)
    rest = layer.bias - whole * HIGHEST  # -128 to 128, in two halves that 7 bits can hold
    columns = []
    while not columns or whole.any():
        columns.append(np.clip(whole, -limit, limit))
        whole = whole - columns[-1]
    unused = further_columns(num_inputs + len(columns) + 2)
    values = [*[HIGHEST] * len(columns), 1, 1, *[0] * unused]
    columns += [rest // 2, rest - rest // 2, *[np.zeros_like(rest)] * unused]
    weight = np.zeros((size + num_ones, 1, num_inputs + len(values)), dtype=np.int8)
    weight[:size, 0] = np.concatenate([layer.weight, np.stack(columns, axis=1)], axis=1)
    weight[size:, 0, num_inputs] = limit
    # The product of the first constant and the largest weight is a one again.
    multiplier = np.append(layer.multiplier, np.full(num_ones, SPAN / (HIGHEST * limit)))
    return Layer(weight, np.zeros(len(weight), dtype=np.int32), multiplier.astype(np.float32)), values


def joined(first: Layer, second: Layer) -> Layer:
    """Return one layer with the columns of both."""
    return Layer(
        np.concatenate([first.weight, second.weight]),
        np.concatenate([first.bias, second.bias]),
        np.concatenate([first.multiplier, second.multiplier]),
    )
