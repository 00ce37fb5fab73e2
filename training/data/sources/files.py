"""Open data files, checking that they exist and hold the kind of content that their reader expects."""

from __future__ import annotations

import codecs
import difflib
import os
from pathlib import Path

from ....errors import DataError, first_line, user_path
from ....storage.safe_reading import read_regular
from ..rows import quoted

MOST_BYTES = 8 * 2**30
"""Largest accepted data file, in bytes, since texts are held in memory."""

_KINDS = (
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\x1f\x8b", "gzip-compressed"),
    (b"PK\x03\x04", "a zip archive or Excel workbook"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"SQLite format 3", "an SQLite database"),
    (b"version https://git-lfs", "a Git LFS pointer (run `git lfs pull`)"),
)


def existing_file(name: str, parameter: str) -> Path:
    """Return the path of an existing, readable regular file.

    Args:
        name: Path as given by the user; ``~`` is expanded.
        parameter: Full name of the parameter that holds it, for the message.

    Raises:
        DataError: The path does not exist (similar names are listed), is a directory or another non-regular file, or
            is not readable.
    """
    path = user_path(name, parameter, DataError)
    try:
        if path.is_file():
            if not os.access(path, os.R_OK):
                raise DataError(f"{name}: {parameter} cannot be read; check its permissions")
            return path
        if path.is_dir():
            inside = sorted(entry.name for entry in path.iterdir() if entry.is_file())
            raise DataError(
                f"{name}: {parameter} is a directory, not a file; specify one of its files; it has "
                f"{quoted(inside, 8)}"
            )
        if path.exists():
            raise DataError(f"{name}: {parameter} is not a regular file; save the data in a file first")
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    except OSError as error:
        raise _unreadable(name, error) from error
    close = difflib.get_close_matches(path.name, siblings, 3, 0.6)
    hint = f"similar names: {quoted(close)}" if close else f"looked in {path.parent.absolute()}"
    raise DataError(f"{name}: {parameter} does not exist; {hint}; correct the path")


def read_bytes(path: Path) -> bytes:
    """Read a whole file.

    Raises:
        DataError: It cannot be read, is not a regular file, is larger than ``MOST_BYTES``, or is empty except for a
            byte-order mark and white space.
    """
    try:
        content = read_regular(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        raise _unreadable(str(path), error) from error
    if not content.removeprefix(codecs.BOM_UTF8).strip():
        raise DataError(f"{path}: the file is empty; it needs at least one text and label")
    return content


def decode(content: bytes, origin: str, expected: str) -> str:
    """Decode UTF-8 text, without a byte-order mark.

    Args:
        content: The whole file.
        origin: Its name, for the message.
        expected: The expected format, such as ``CSV``.

    Raises:
        DataError: The bytes are not UTF-8 text; names the kind of file where it is known, or the first bad line.
    """
    kind = kind_of(content)
    if kind is not None:
        raise DataError(f"{origin}: not {expected}, it is {kind}; save it as {expected} in UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise DataError(
            f"{origin}: line {line}: not valid UTF-8 (byte 0x{byte:02x}); save it as {expected} in UTF-8"
        ) from None


def kind_of(content: bytes) -> str | None:
    """Return the kind of a binary file, detected from its content, or None if it may be UTF-8 text."""
    for start, kind in _KINDS:
        if content.startswith(start):
            return kind
    return "a binary file" if b"\0" in content else None


def _unreadable(name: str, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or first_line(error)
    return DataError(f"{name}: cannot be read: {reason}; check the path and its permissions")
