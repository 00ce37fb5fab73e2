"""Rows of different lengths: indexed like arrays, joined, padded, and shared without copies."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from distiltune.training.ragged import Ragged, flat, joined, like, offsets_of

ROWS = [[3, 1], [], [4], [1, 5, 9, 2]]


@pytest.fixture
def rows() -> Ragged:
    return Ragged.of(ROWS, np.int64)


def lists(rows: Ragged) -> list[list[int]]:
    return [row.tolist() for row in rows]


def test_rows_are_indexed_by_number(rows):
    assert lists(rows) == ROWS
    assert rows[-1].tolist() == ROWS[-1] and rows[np.int64(2)].tolist() == [4]
    assert len(rows) == 4 and rows.lengths.tolist() == [2, 0, 1, 4]
    assert rows.row_numbers.tolist() == [0, 0, 2, 3, 3, 3, 3]
    with pytest.raises(IndexError):
        rows[4]


@pytest.mark.parametrize(
    "index", [slice(2), slice(1, 3), slice(3, 1), slice(None), slice(None, None, -1), slice(9)]
)
def test_slices_match_those_of_a_list(rows, index):
    found = rows[index]
    assert lists(found) == ROWS[index]
    assert found.offsets[0] == 0 and found.offsets.dtype == np.int64


@pytest.mark.parametrize("numbers", [[3, 0, 0], [], [1], [-1, 2]])
def test_rows_are_selected_in_any_order(rows, numbers):
    for index in (numbers, np.array(numbers, dtype=np.int64)):
        assert lists(rows[index]) == [ROWS[number] for number in numbers]


def test_a_prefix_shares_its_memory(rows):
    assert np.shares_memory(rows[:2].values, rows.values)
    assert np.shares_memory(rows[3], rows.values)


def test_values_of_several_dimensions_keep_their_order():
    logits = Ragged(np.arange(21.0).reshape(7, 3), offsets_of([2, 0, 1, 4]))
    assert logits[[3, 0]].values.tolist() == [*logits[3].tolist(), *logits[0].tolist()]
    assert logits.padded(-1).shape == (4, 4, 3)
    assert logits.padded(-1)[0, 2:].tolist() == [[-1] * 3] * 2
    assert Ragged.of([], np.float32, (3,)).values.shape == (0, 3)


def test_rows_are_padded_with_the_fill(rows):
    assert rows.padded(-100).tolist() == [[3, 1, -100, -100], [-100] * 4, [4, -100, -100, -100], [1, 5, 9, 2]]
    assert Ragged.of([], np.int64).padded(0).shape == (0, 0)


def test_both_forms_are_joined_and_flattened(rows):
    assert lists(joined([rows, rows[:1]])) == [*ROWS, ROWS[0]]
    plain = np.array([[1.0, 2.0]])
    assert joined([plain, plain]).tolist() == [[1, 2], [1, 2]]
    assert flat(plain) is plain and flat(rows) is rows.values
    assert lists(like(rows, rows.values * 2)) == [[2 * each for each in row] for row in ROWS]
    assert like(plain, plain + 1).tolist() == [[2, 3]]


def test_arrays_are_pickled_out_of_band(rows):
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(rows, protocol=5, buffer_callback=buffers.append)
    assert len(buffers) == 2
    assert lists(pickle.loads(content, buffers=buffers)) == ROWS
