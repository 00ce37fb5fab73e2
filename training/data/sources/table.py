"""Read CSV, JSON Lines and Parquet files, one per split, keeping the exact line or row of each text and label."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from ....errors import DataError, first_line, shown
from ....storage.safe_reading import read_json
from ...section import Name
from ..rows import MISSING, FaultList, RawSplit, collect, column_error
from .base import DATA_SOURCES, ColumnsConfig
from .files import decode, existing_file, kind_of, read_bytes

_HINTS = {
    ".json": "for JSON Lines rename it to .jsonl; for a file in CLINC150's format use source clinc_json",
    ".tsv": "save it with commas as .csv",
    ".xlsx": "export it as CSV",
    ".gz": "unpack it first",
}


@DATA_SOURCES.register
class FilesData(ColumnsConfig):
    """One file for each split."""

    source: Literal["files"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="files",
        description="CSV, JSONL or Parquet, one file per split (`train`, `validation`, `test`).",
    )
    train: Name | None = Field(
        default=None, description="files: the training split (.csv, .jsonl, .parquet)."
    )
    validation: Name | None = Field(
        default=None, description="files: the validation split, on which every selection is made."
    )
    test: Name | None = Field(
        default=None, description="files: the test split, which is only reported, never used to select."
    )

    local_files: ClassVar[tuple[str, ...]] = ("train", "validation", "test")

    def read(self) -> list[RawSplit]:
        """Return the three splits; the errors of all files are raised together."""
        return collect(
            [
                lambda split=split: read_table(
                    split, str(getattr(self, split)), self.text_column, self.label_column
                )
                for split in self.local_files
            ]
        )


def read_table(
    split: str, name: str, text_column: str, label_column: str, *, parameter: str | None = None
) -> RawSplit:
    """Read one split from a file, in the format given by its extension.

    Args:
        split: Name of the split, and of the parameter that names the file.
        name: Path of a ``.csv``, ``.jsonl`` or ``.parquet`` file.
        text_column: Column that holds the text.
        label_column: Column that holds the label.
        parameter: What names the file, for messages; default: ``data.`` and the split.

    Raises:
        DataError: The file does not exist, its extension is not supported or does not match its content, or the
            column does not exist.
    """
    parameter = parameter or f"data.{split}"
    path = existing_file(name, parameter)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        hint = _HINTS.get(path.suffix.lower(), "convert it to one of them")
        raise DataError(
            f"{name}: {parameter} has the extension {path.suffix!r}; "
            f"source files reads .csv, .jsonl and .parquet; {hint}"
        )
    return reader(split, path, text_column, label_column)


def _read_csv(split: str, path: Path, text_column: str, label_column: str) -> RawSplit:
    origin = str(path)
    content = decode(read_bytes(path), origin, "CSV")
    if content.lstrip()[:1] in ("{", "["):
        raise DataError(f"{origin}: not CSV but JSON; rename it to .jsonl if it has one object per line")
    csv.field_size_limit(
        max(csv.field_size_limit(), len(content))
    )  # a text may be longer than 131,072 characters
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    records: list[list[str]] = []
    lines: list[int] = []
    start = 1
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
    text, label = (
        _position(origin, role, column, header)
        for role, column in (("text", text_column), ("label", label_column))
    )
    faults = FaultList()
    for line, row in zip(lines[1:], rows, strict=True):
        if len(row) != len(header):
            faults.add(lambda n=line, r=row: f"line {n}: {len(r)} fields where the header has {len(header)}")
    faults.raise_if_any(origin, "put texts that contain a comma in double quotes")
    return RawSplit(
        split,
        origin,
        [row[text] for row in rows],
        [row[label] for row in rows],
        lambda i: f"line {lines[i + 1]}",
    )


def _position(origin: str, role: str, column: str, columns: list[str]) -> int:
    count = columns.count(column)
    if not count:
        raise column_error(origin, role, column, columns)
    if count > 1:
        raise DataError(f"{origin}: {count} columns are called {column!r}; rename all but one")
    return columns.index(column)


def _read_jsonl(split: str, path: Path, text_column: str, label_column: str) -> RawSplit:
    origin = str(path)
    content = decode(read_bytes(path), origin, "JSON Lines")
    objects: list[dict[str, Any]] = []
    lines: list[int] = []
    # Not splitlines(): JSON strings may hold U+2028 and the like, which it treats as line ends.
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            objects.append(_json_object(line, f"{origin}: line {number}"))
            lines.append(number)
    columns = dict.fromkeys(key for item in objects for key in item)
    for role, column in (("text", text_column), ("label", label_column)):
        if column not in columns:
            raise column_error(origin, role, column, columns)
    return RawSplit(
        split,
        origin,
        [item.get(text_column, MISSING) for item in objects],
        [item.get(label_column, MISSING) for item in objects],
        lambda i: f"line {lines[i]}",
    )


def _json_object(line: str, where: str) -> dict[str, Any]:
    remedy = 'JSON Lines has one object per line, such as {"text": "…", "label": "…"}'
    try:
        value = read_json(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON ({error.msg}): {shown(line)}; {remedy}") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: a JSON {type(value).__name__}, not an object: {shown(line)}; {remedy}")
    return value


def _read_parquet(split: str, path: Path, text_column: str, label_column: str) -> RawSplit:
    import pyarrow as pa
    import pyarrow.parquet as pq

    origin = str(path)
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            for role, column in (("text", text_column), ("label", label_column)):
                _position(origin, role, column, schema.names)
            table = file.read(columns=[text_column, label_column])
        texts, labels = (table.column(name).to_pylist() for name in (text_column, label_column))
    except UnicodeDecodeError:
        raise DataError(f"{origin}: a text or label is not valid UTF-8; save the file as UTF-8") from None
    except DataError:
        raise
    except (
        pa.ArrowException,
        OSError,
        OverflowError,
        ValueError,
    ) as error:  # such as a date beyond Python's range
        raise _not_parquet(path, error) from error
    names = _class_names(schema.metadata, label_column)
    if names:
        labels = [class_name(value, names) for value in labels]
    return RawSplit(split, origin, texts, labels, lambda i: f"row {i + 1}")


def class_name(value: object, names: list[str]) -> object:
    """Return the name of class number ``value``; numbers without a name (-1 is unlabelled) become None."""
    if isinstance(value, int) and not isinstance(value, bool):
        return names[value] if 0 <= value < len(names) else None
    return value


def _class_names(metadata: dict[bytes, bytes] | None, column: str) -> list[str] | None:
    """Return the label names that `datasets` stores in the hub's Parquet files, where labels are bare numbers."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"] if features[column]["_type"] == "ClassLabel" else None
    except (KeyError, RecursionError, TypeError, ValueError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _not_parquet(path: Path, error: Exception) -> DataError:
    content = read_bytes(path)
    reason = first_line(error)
    kind = kind_of(content)
    if kind == "a Parquet file":
        return DataError(
            f"{path}: a damaged or truncated Parquet file ({shown(reason, 90)}); copy or write it again"
        )
    if kind is None:
        kind = "JSON text" if content.lstrip()[:1] in (b"{", b"[") else "text, perhaps CSV"
    return DataError(f"{path}: not a Parquet file but {kind}; rename it with the extension of its format")


_READERS = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
