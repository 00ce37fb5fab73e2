"""Read JSON Lines, and JSON files with a list of objects or in SQuAD's format."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .....errors import DataError, shown
from .....storage.safe_reading import read_json
from ...rows import MISSING, FaultList
from ..columns import Columns, Table
from ..files import decode, read_bytes
from .squad import is_squad, read_squad

# Not str.splitlines(): JSON strings may hold U+2028 and the like, which it treats as line ends.
_LINE_END = re.compile(r"\r\n|\n|\r")
_LINES_REMEDY = 'JSON Lines has one object per line, such as {"text": "…", "label": "…"}'
_LIST_REMEDY = (
    "it must be a list of objects, or have one object per line; for CLINC150's format use source clinc_json"
)


def read_json_lines(path: Path, columns: Columns) -> Table:
    """Read a file with one JSON object per line.

    Raises:
        DataError: A line is not a JSON object, or a column does not exist.
    """
    origin = str(path)
    content = decode(read_bytes(path), origin, "JSON Lines")
    return _table_of_lines(content, origin, columns)


def read_json_list(path: Path, columns: Columns) -> Table:
    """Read a JSON file: a list of objects, one object per line, or SQuAD's format.

    Raises:
        DataError: It is none of them, or a column does not exist.
    """
    origin = str(path)
    content = decode(read_bytes(path), origin, "JSON")
    if is_squad(content) and (table := read_squad(content, origin, columns)) is not None:
        return table
    start = content.lstrip()[:2]
    if not start.startswith("["):
        if start.startswith("{") and _is_one_object(content):
            raise DataError(f"{origin}: a JSON object over several lines; {_LIST_REMEDY}")
        return _table_of_lines(content, origin, columns)
    try:
        rows = read_json(content)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{origin}: line {error.lineno} column {error.colno}: not valid JSON ({error.msg}); {_LIST_REMEDY}"
        ) from None
    faults = FaultList()
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            faults.add(lambda i=index, r=row: f"row {i + 1}: a JSON {type(r).__name__}: {shown(r)}")
    faults.raise_if_any(origin, _LIST_REMEDY)
    return _table(rows, origin, columns, lambda i: f"row {i + 1}")


def _is_one_object(content: str) -> bool:
    """Return whether a whole document is one object that spans several lines."""
    first = next(line for line in _LINE_END.split(content) if line.strip())
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        try:
            return isinstance(json.loads(content), dict)
        except (ValueError, RecursionError):
            return False
    return False


def _table_of_lines(content: str, origin: str, columns: Columns) -> Table:
    objects: list[dict[str, Any]] = []
    lines: list[int] = []
    for number, line in enumerate(_LINE_END.split(content), start=1):
        if line.strip():
            objects.append(_parse_line(line, f"{origin}: line {number}"))
            lines.append(number)
    return _table(objects, origin, columns, lambda i: f"line {lines[i]}")


def _parse_line(line: str, where: str) -> dict[str, Any]:
    try:
        value = read_json(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON ({error.msg}): {shown(line)}; {_LINES_REMEDY}") from None
    if not isinstance(value, dict):
        hint = "rename the file to .json if it is a list of objects; " if isinstance(value, list) else ""
        raise DataError(
            f"{where}: a JSON {type(value).__name__}, not an object: {shown(line)}; {hint}{_LINES_REMEDY}"
        )
    return value


def _table(
    objects: list[dict[str, Any]], origin: str, columns: Columns, place: Callable[[int], str]
) -> Table:
    names = list(dict.fromkeys(key for item in objects for key in item) if objects else columns.keys)
    columns.check(origin, names)
    return Table(origin, names, lambda name: [item.get(name, MISSING) for item in objects], place)
