"""Tables of a report on the job's texts and labels, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import cut
from ..markdown import Markdown, fixed, table

_MOST_CHARACTERS = 80  # of a text


def issues_table(rows: Sequence[dict[str, Any]]) -> Markdown:
    """Return a table of texts whose label is probably wrong: ``report["diagnostics"]["label_issues"]["shown"]``."""
    headers = ["text", "split", "row", "label", "probability", "teacher", "probability"]
    cells = [
        [
            cut(row["text"], _MOST_CHARACTERS),
            row["split"],
            row["row"],
            row["label"],
            fixed(row["label_probability"], 2),
            row["predicted"],
            fixed(row["predicted_probability"], 2),
        ]
        for row in rows
    ]
    return table(headers, cells, left=(0, 1, 3, 5))


def confused_table(rows: Sequence[dict[str, Any]]) -> Markdown:
    """Return a table of confused labels: ``report["diagnostics"]["confused_labels"]``."""
    headers = ["label", "other label", "taken for the other", "other taken for it"]
    cells = [[*row["labels"], row["first_as_second"], row["second_as_first"]] for row in rows]
    return table(headers, cells, left=(0, 1))


def duplicates_table(rows: Sequence[dict[str, Any]]) -> Markdown:
    """Return a table of near-duplicates: ``report["diagnostics"]["near_duplicates"]["shown"]``."""
    headers = ["text", "split", "row", "resembles", "split", "row", "similarity"]
    cells = [
        [
            cut(row["text"], _MOST_CHARACTERS),
            row["split"],
            row["row"],
            cut(row["other_text"], _MOST_CHARACTERS),
            row["other_split"],
            row["other_row"],
            fixed(row["similarity"], 2),
        ]
        for row in rows
    ]
    return table(headers, cells, left=(0, 1, 3, 4))
