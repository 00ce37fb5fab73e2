"""Rows of different lengths as one flat array with offsets, such as the labels or logits of each text's tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """N rows of L_i values each. The arrays may be read-only or memory-mapped.

    An integer index returns one row; a slice or an array of integers returns several rows.

    Attributes:
        values: [total, ...]; the rows one after another.
        offsets: int64[N + 1]; row i is ``values[offsets[i]:offsets[i + 1]]``.

    Example:
        ```python
        rows = Ragged.of([[1, 2], [3]], np.int64)
        rows[1], rows[[1, 0]].values  # array([3]), array([3, 1, 2])
        ```
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Any], dtype: Any, shape: tuple[int, ...] = ()) -> Ragged:
        """Join rows, each [L_i, *shape]; pass the shape of a value if there may be no rows."""
        arrays = [np.asarray(row, dtype=dtype).reshape(-1, *shape) for row in rows]
        values = np.concatenate(arrays) if arrays else np.zeros((0, *shape), dtype)
        return cls(values, offsets_of([len(each) for each in arrays]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    @overload
    def __getitem__(self, index: int | np.integer) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> Ragged: ...

    def __getitem__(self, index: Any) -> np.ndarray | Ragged:
        if isinstance(index, int | np.integer):
            row = range(len(self))[index]  # resolves a negative index, and rejects one out of range
            return self.values[self.offsets[row] : self.offsets[row + 1]]
        if isinstance(index, slice) and index.step in (None, 1):
            start, stop, _ = index.indices(len(self))
            stop = max(start, stop)
            offsets = self.offsets[start : stop + 1]
            return Ragged(self.values[offsets[0] : offsets[-1]], offsets - offsets[0])
        rows = np.arange(len(self))[index]
        lengths = self.lengths[rows]
        offsets = offsets_of(lengths)
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Ragged(self.values[places], offsets)

    @property
    def lengths(self) -> np.ndarray:
        """Number of values of each row, int64[N]."""
        return np.diff(self.offsets)

    @property
    def row_numbers(self) -> np.ndarray:
        """Row number of each value, int64[total]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def like(self, values: np.ndarray) -> Ragged:
        """Return rows of the same lengths with other values [total, ...]."""
        return Ragged(values, self.offsets)

    def padded(self, fill: Any) -> np.ndarray:
        """Return the rows as one array [N, max L, ...], padded with ``fill``."""
        width = int(self.lengths.max(initial=0))
        rows = np.full((len(self), width, *self.values.shape[1:]), fill, self.values.dtype)
        rows[np.arange(width) < self.lengths[:, None]] = self.values
        return rows


Rows = np.ndarray | Ragged
"""Values of N texts: an array [N, ...] with one per text, or a ``Ragged`` with one per token."""


def offsets_of(lengths: Any) -> np.ndarray:
    """Return the offsets of rows of these lengths: their starts, then the end of the last, int64[N + 1]."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def flat(rows: Rows) -> np.ndarray:
    """Return the values of all rows as one array, [N, ...] or [total, ...]."""
    return rows.values if isinstance(rows, Ragged) else rows


def like(rows: Rows, values: np.ndarray) -> Rows:
    """Return ``values`` in the form of ``rows``: the inverse of ``flat``."""
    return rows.like(values) if isinstance(rows, Ragged) else values


def joined(parts: Sequence[Rows]) -> Rows:
    """Concatenate the rows of all parts: at least one part, all of the same form."""
    values = np.concatenate([flat(each) for each in parts])
    if not isinstance(parts[0], Ragged):
        return values
    lengths = np.concatenate([each.lengths for each in parts if isinstance(each, Ragged)])
    return Ragged(values, offsets_of(lengths))
