"""Open data files, checking that they exist and hold the kind of content that their reader expects."""

from __future__ import annotations

import codecs
import difflib
import gzip
import io
import os
import zlib
from pathlib import Path

from ....errors import DataError, first_line, user_path
from ....storage.safe_reading import read_regular
from ..rows import quoted

MOST_BYTES = 8 * 2**30
"""Largest accepted data file, in bytes, since texts are held in memory."""

_BLOCK = 2**20  # bytes decompressed at a time
GZIP = "gzip-compressed"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_KINDS = (
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\x1f\x8b", GZIP),
    (b"PK\x03\x04", "a zip archive or Excel workbook"),
    (b"\xff\xfe\0\0", "UTF-32 text"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"SQLite format 3", "an SQLite database"),
    (b"version https://git-lfs", "a Git LFS pointer (run `git lfs pull`)"),
)

_DICT_FILE, _DATASET_FILES = "dataset_dict.json", ("state.json", "dataset_info.json")


def existing_data(name: str, parameter: str) -> Path:
    """Return the path of an existing file, or of a folder that ``datasets`` saved.

    Raises:
        DataError: As for :func:`existing_file`.
    """
    path = user_path(name, parameter, DataError)
    return path if is_saved(path) else existing_file(name, parameter)


def is_saved(path: Path) -> bool:
    """Return whether a path is a folder written by ``save_to_disk``: of a Dataset, or of a DatasetDict."""
    return is_saved_dict(path) or all((path / name).is_file() for name in _DATASET_FILES)


def is_saved_dict(path: Path) -> bool:
    """Return whether a path is a folder written by ``DatasetDict.save_to_disk``."""
    return (path / _DICT_FILE).is_file()


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
    """Read a whole file; one called ``….gz`` is decompressed.

    Raises:
        DataError: It cannot be read, is not a regular file, is larger than ``MOST_BYTES``, is empty except for a
            byte-order mark and white space, or is called ``….gz`` and is not a whole gzip file.
    """
    try:
        content = read_regular(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        raise _unreadable(str(path), error) from error
    if path.suffix.lower() == ".gz" and content:
        content = _decompressed(content, path)
    if not content.removeprefix(codecs.BOM_UTF8).strip():
        raise DataError(f"{path}: the file is empty; it needs at least one text and label")
    return content


def _decompressed(content: bytes, path: Path) -> bytes:
    found = bytearray()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            while len(found) <= MOST_BYTES and (block := file.read(_BLOCK)):
                found += block
    except gzip.BadGzipFile as error:
        if content.startswith(b"\x1f\x8b"):
            raise DataError(f"{path}: a damaged gzip file ({first_line(error)}); copy it again") from None
        raise DataError(f"{path}: not a gzip file; remove .gz from its name if it is plain text") from None
    except (EOFError, zlib.error):
        raise DataError(f"{path}: a damaged or truncated gzip file; copy it again") from None
    if len(found) > MOST_BYTES:
        raise DataError(
            f"{path}: decompressed, it is larger than the limit of {MOST_BYTES:,} bytes; split it"
        )
    return bytes(found)


def decode(content: bytes, origin: str, expected: str) -> str:
    """Decode UTF-8 text, or UTF-16 text with a byte-order mark; the mark is removed.

    Args:
        content: The whole file.
        origin: Its name, for the message.
        expected: The expected format, such as ``CSV``.

    Raises:
        DataError: The bytes are neither; names the kind of file where it is known, or the first bad line.
    """
    kind = kind_of(content)
    if kind is not None:
        remedy = "rename it to ….gz" if kind == GZIP else f"save it as {expected} in UTF-8"
        raise DataError(f"{origin}: not {expected}, it is {kind}; {remedy}")
    try:
        text = content.decode("utf-16" if content.startswith(_UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        if content.startswith(_UTF_16):
            line = content[: error.start].decode("utf-16", "ignore").count("\n") + 1
            raise DataError(
                f"{origin}: line {line}: not valid UTF-16 ({error.reason}); save it as {expected} in UTF-8"
            ) from None
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise DataError(
            f"{origin}: line {line}: not valid UTF-8 (byte 0x{byte:02x}); save it as {expected} in UTF-8"
        ) from None
    if "\0" in text:
        raise DataError(f"{origin}: not {expected}, it is a binary file; save it as {expected} in UTF-8")
    if not text.strip():
        raise DataError(f"{origin}: the file is empty; it needs at least one text and label")
    return text


def kind_of(content: bytes) -> str | None:
    """Return the kind of a binary file, detected from its content, or None if it may be text."""
    for start, kind in _KINDS:
        if content.startswith(start):
            return kind
    if content.startswith(_UTF_16):
        return None
    return "a binary file" if b"\0" in content else None


def _unreadable(name: str, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or first_line(error)
    return DataError(f"{name}: cannot be read: {reason}; check the path and its permissions")
