"""Inputs of a model: one text, or a pair of texts, such as a premise and a hypothesis; and how CSV files hold them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

TextOrPair = str | tuple[str, str]
"""A text, or two texts that a model reads together."""
PAIR_COLUMN = "text_pair"
"""Default name of the column with the second text, as in the inputs of transformers' pipelines."""


def is_pair(value: object) -> TypeGuard[tuple[str, str]]:
    """Return whether a value is a pair of texts."""
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, str) for part in value)


def parts_of(text: TextOrPair) -> tuple[str, ...]:
    """Return the texts that are read together: one or two."""
    return (text,) if isinstance(text, str) else text


def joined(text: TextOrPair, separator: str = " ") -> str:
    """Return a single text unchanged, or both texts of a pair joined by the separator."""
    return text if isinstance(text, str) else separator.join(text)


def num_characters(text: TextOrPair) -> int:
    """Return the number of characters of a text, or of both texts of a pair together."""
    return len(text) if isinstance(text, str) else len(text[0]) + len(text[1])


def is_blank(text: TextOrPair) -> bool:
    """Return whether a text, or either text of a pair, has nothing but white space."""
    return any(not part.strip() for part in parts_of(text))


def all_parts(texts: Sequence[TextOrPair]) -> list[str]:
    """Return all texts in one list, with both texts of each pair one after the other."""
    return [part for text in texts for part in parts_of(text)]


def from_json(value: Any) -> Any:
    """Convert a text read from JSON, in which a pair is a list of two strings; other values are returned unchanged."""
    return tuple(value) if isinstance(value, list) else value


def as_columns(text: TextOrPair) -> dict[str, str]:
    """Return a text by column: ``text``, and for a pair also ``text_pair`` with the second text."""
    return {"text": text} if isinstance(text, str) else {"text": text[0], PAIR_COLUMN: text[1]}


def texts_of(rows: Any) -> list[TextOrPair]:
    """Return the texts of rows from their column ``text``, or pairs if there is also a column ``text_pair``."""
    texts = list(rows["text"][:])
    names = getattr(rows, "column_names", rows)
    return list(zip(texts, rows[PAIR_COLUMN][:], strict=True)) if PAIR_COLUMN in names else texts


def csv_line(cells: Iterable[object]) -> str:
    r"""Return a line of a CSV file, which ends with a line feed.

    A cell with a carriage return is quoted, unlike with ``lineterminator="\n"``: unquoted, it would end the row.
    """
    line = io.StringIO(newline="")
    csv.writer(line).writerow(cells)  # quotes the characters of its own line end, "\r\n"
    return line.getvalue().removesuffix("\r\n") + "\n"
