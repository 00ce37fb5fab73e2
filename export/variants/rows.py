"""Tokenized texts for making variants: token ids and, for pairs, token types."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Rows = Sequence[np.ndarray]
"""Token ids [L] of each text, or for pairs [2, L]: the ids above their token types."""


def ids_of(row: np.ndarray) -> np.ndarray:
    """Return the token ids [L] of one of ``Rows``."""
    return row if row.ndim == 1 else row[0]


def inputs_of(row: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return one of ``Rows`` as a batch of one: ids, mask and, for pairs, token types, each int64[1, L]."""
    ids, *types = np.atleast_2d(np.asarray(row, dtype=np.int64))
    return (ids[None], np.ones_like(ids)[None], *(each[None] for each in types))
