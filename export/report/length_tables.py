"""Latency by the number of tokens of a text: a table of a report, and a line for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..benchmark import targets
from ..markdown import Markdown, bold, fixed, table


def by_length(variants: Sequence[dict[str, Any]], chosen: str | None) -> list[dict[str, Any]]:
    """Return the measurements to compare by length: the chosen variant, models in PyTorch and baselines."""
    return [
        row
        for row in variants
        if row.get("length_ms") and (row["name"] == chosen or not targets.get(row["kind"]).is_gated)
    ]


def length_table(variants: Sequence[dict[str, Any]], chosen: str | None) -> Markdown:
    """Return a Markdown table of the median latency of one text by its number of tokens."""
    rows = by_length(variants, chosen)
    lengths = _lengths(rows)
    cells = [
        [
            bold(row["name"]) if row["name"] == chosen else row["name"],
            *(fixed((row["length_ms"].get(str(each)) or {}).get("p50"), 2) for each in lengths),
        ]
        for row in rows
    ]
    return table(["model", *(f"{each:,} tokens, ms" for each in lengths)], cells)


def length_lines(variants: Sequence[dict[str, Any]], chosen: str | None) -> list[str]:
    """Return a line with the median latency of the chosen variant by the number of tokens, where it was measured."""
    rows = [row for row in by_length(variants, chosen) if row["name"] == chosen]
    return [f"{row['name']}, one text of {_in_words(row['length_ms'])}" for row in rows]


def _in_words(times: dict[str, dict[str, float]]) -> str:
    found = [f"{length:,} tokens {times[str(length)]['p50']:.2f} ms" for length in sorted(map(int, times))]
    return ", ".join(found)


def _lengths(rows: Sequence[dict[str, Any]]) -> list[int]:
    return sorted({int(each) for row in rows for each in row["length_ms"]})
