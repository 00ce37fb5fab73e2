"""Read Parquet and Arrow files, with the class names that ``datasets`` stores in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .....errors import DataError, first_line, shown
from ..columns import DEFAULT_LABEL_COLUMN, Columns, Table
from ..files import kind_of, read_bytes


def read_parquet(path: Path, columns: Columns) -> Table:
    """Read the columns of a Parquet file; all of them if ``columns`` names none.

    Raises:
        DataError: It is not a Parquet file, is damaged, or lacks a column.
    """

    def read() -> Any:
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            columns.check(str(path), file.schema_arrow.names)
            return file.read(columns=list(columns.keys) or None)

    return _read(path, "Parquet", columns, read)


def read_arrow(path: Path, columns: Columns) -> Table:
    """Read the columns of an Arrow file: the streaming format that ``datasets`` writes, or the file format.

    Raises:
        DataError: It is not an Arrow file, is damaged, or lacks a column.
    """

    def read() -> Any:
        import pyarrow as pa

        with pa.memory_map(str(path)) as file:
            is_file = file.read(6) == b"ARROW1"
            file.seek(0)
            with pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file) as reader:
                columns.check(str(path), reader.schema.names)
                table = reader.read_all()
                table = table.select(list(columns.keys) or table.column_names)
        table.validate(full=True)  # a damaged file may have offsets beyond its end
        return table

    return _read(path, "Arrow", columns, read)


def class_name(value: object, names: list[str]) -> object:
    """Return the name of a class number, or those of a list; numbers without a name (-1 is unlabelled) become None."""
    if isinstance(value, list):
        return [class_name(each, names) for each in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return names[value] if 0 <= value < len(names) else None
    return value


def _read(path: Path, kind: str, columns: Columns, read: Callable[[], Any]) -> Table:
    import pyarrow as pa

    origin = str(path)
    try:
        table = read()
        values = {name: table.column(name).to_pylist() for name in table.column_names}
    except UnicodeDecodeError:
        raise DataError(f"{origin}: a text or label is not valid UTF-8; save the file as UTF-8") from None
    except DataError:
        raise
    # ValueError: such as a date beyond Python's range
    except (pa.ArrowException, OSError, OverflowError, ValueError) as error:
        raise _not_readable(path, kind, error) from error
    for name in values:
        if name == _label_of(columns) or _is_list(table.schema.field(name).type):
            names = _class_names(table.schema.metadata, name)
            values[name] = [class_name(each, names) for each in values[name]] if names else values[name]
    return Table(origin, table.schema.names, values.__getitem__, lambda i: f"row {i + 1}")


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _label_of(columns: Columns) -> str | None:
    """Return the column of the label; if all columns are read, the one with the default name."""
    return columns.label if columns.keys else DEFAULT_LABEL_COLUMN


def _class_names(metadata: dict[bytes, bytes] | None, column: str) -> list[str] | None:
    """Return the label names that ``datasets`` stores in its files, where labels are bare numbers."""
    try:
        feature = json.loads((metadata or {})[b"huggingface"])["info"]["features"][column]
        feature = feature.get("feature", feature)  # of a list of classes
        names = feature["names"] if feature["_type"] == "ClassLabel" else None
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _not_readable(path: Path, wanted: str, error: Exception) -> DataError:
    content = read_bytes(path)
    kind = kind_of(content)
    article = "an" if wanted == "Arrow" else "a"
    if kind == f"{article} {wanted} file" or (wanted == "Arrow" and content[:4] == b"\xff\xff\xff\xff"):
        reason = shown(first_line(error), 90)
        return DataError(f"{path}: a damaged or truncated {wanted} file ({reason}); copy or write it again")
    if kind is None:
        kind = "JSON text" if content.lstrip()[:1] in (b"{", b"[") else "text, perhaps CSV"
    return DataError(
        f"{path}: not {article} {wanted} file but {kind}; rename it with the extension of its format"
    )
