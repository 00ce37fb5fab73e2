"""Read CSV files with commas, semicolons, tabs or bars between their fields."""

from __future__ import annotations

import csv
import io
from collections import Counter
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

from .....errors import DataError, shown
from ...rows import FaultList
from ..columns import Columns, Table
from ..files import decode, read_bytes

DELIMITERS: Final = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_NUM_SAMPLED = 20  # records that show the delimiter


def read_delimited(path: Path, columns: Columns, delimiter: str | None) -> Table:
    """Read a CSV file.

    Args:
        path: The file.
        columns: The columns to read.
        delimiter: Character between fields; None: the one by which the header has the columns to read, else the one
            that divides the most of the first records into equally many fields.

    Raises:
        DataError: It is not CSV, a record has more or fewer fields than the header, or a column does not exist.
    """
    origin = str(path)
    content = decode(read_bytes(path), origin, "CSV")
    if content.lstrip()[:1] in ("{", "["):
        raise DataError(
            f"{origin}: not CSV but JSON; rename it to .jsonl if it has one object per line, or to .json"
        )
    # The default limit is 131,072 characters, which a text may exceed.
    csv.field_size_limit(max(csv.field_size_limit(), len(content)))
    delimiter = delimiter or _detect_delimiter(content, columns, path)
    records: list[list[str]] = []
    lines: list[int] = []
    start = 1
    reader = _reader(content, delimiter)
    try:
        for record in reader:
            if record:
                records.append(record)
                lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{origin}: line {start}: not valid CSV ({error}); "
            'close every quote and write a quote inside a field as ""'
        ) from None
    header, rows = records[0], records[1:]
    columns.check(origin, header)
    faults = FaultList()
    for line, row in zip(lines[1:], rows, strict=True):
        if len(row) != len(header):
            count = "1 field" if len(row) == 1 else f"{len(row)} fields"
            faults.add(lambda n=line, c=count: f"line {n}: {c} where the header has {len(header)}")
    faults.raise_if_any(
        origin,
        f"the fields are divided by {DELIMITERS.get(delimiter, shown(delimiter))} (data.delimiter); put texts that "
        f"contain {shown(delimiter)} in double quotes",
    )

    def column(name: str) -> list[str]:
        position = header.index(name)
        return [row[position] for row in rows]

    return Table(origin, header, column, lambda i: f"line {lines[i + 1]}")


def _reader(content: str, delimiter: str) -> Any:
    return csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)


def _detect_delimiter(content: str, columns: Columns, path: Path) -> str:
    candidates = sorted(DELIMITERS, key=lambda each: each != "\t") if ".tsv" in path.suffixes else DELIMITERS
    samples = {each: _sample(content, each) for each in candidates}
    for each, records in samples.items():
        if columns.keys and records and all(records[0].count(name) for name in columns.keys):
            return each

    def regularity(each: str) -> tuple[bool, int, int]:
        records = [record for record in samples[each] if record]
        widths = Counter(map(len, records))
        width, count = widths.most_common(1)[0] if records else (1, 0)
        return width > 1, count, width

    return max(samples, key=regularity)


def _sample(content: str, delimiter: str) -> list[list[str]]:
    found: list[list[str]] = []
    with suppress(csv.Error):  # it is reported with its line when the whole file is read
        found.extend(record for record in islice(_reader(content, delimiter), _NUM_SAMPLED) if record)
    return found
