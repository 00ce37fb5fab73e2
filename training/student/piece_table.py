"""A table of word pieces from the teacher's states of each piece: principal components, scaled."""

from __future__ import annotations

import numpy as np

TABLE_STD = 0.1
"""Standard deviation of a new table's values."""


def principal_components(states: np.ndarray, num_columns: int) -> np.ndarray:
    """Return the coordinates of states[N, H] along their directions of largest variance, float32[N, num_columns].

    The columns are in descending order of variance and have mean 0. A direction has two signs; the one is taken whose
    entry of largest magnitude is positive, so that equal states give equal coordinates.
    """
    centred = states.astype(np.float64)
    centred -= centred.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)  # ascending
    vectors = vectors[:, ::-1][:, :num_columns]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)
    return (centred @ vectors).astype(np.float32)


def table_of_states(states: np.ndarray, num_columns: int) -> np.ndarray:
    """Return the principal components of states[N, H], scaled to ``TABLE_STD``, float32[N, num_columns]."""
    table = principal_components(states, num_columns)
    spread = float(table.std())
    return table * np.float32(TABLE_STD / spread) if spread > 0 else table
