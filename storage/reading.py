"""Read from a store safely: keys that stay inside it, regular files, valid JSON."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DamagedRecordError, InputError, PermanentStorageError, shown
from .retry import permanent
from .safe_reading import open_regular, read_json

_KEY_BYTES = 1024  # the limit of object stores


def check_key(key: str) -> None:
    """Reject a key that would lead out of its store, or that no store accepts.

    Raises:
        InputError: The key is absolute, has a part that is empty, ``.`` or ``..``, contains a NUL, or is too long.
    """
    if not key:
        return
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in key:
        raise InputError(
            f"key {shown(key)} of the storage: every part must be a name, and none may be '.' or '..'"
        )
    if len(key.encode("utf-8", "surrogatepass")) > _KEY_BYTES:
        raise InputError(
            f"key {shown(key)} of the storage: longer than {_KEY_BYTES} bytes; use shorter names"
        )


def entries_of(folder: Path, *, recursive: bool) -> Iterator[tuple[str, int | None]]:
    """Yield the entries of a folder as (relative path, size in bytes); the size of a folder is None.

    Names that begin with a dot (temporary files) or are not UTF-8 (no key has such a name) are skipped. Links to
    folders are not followed.
    """
    for parent, folders, files in os.walk(folder, onerror=_raise_unless_gone):
        folders[:] = [name for name in folders if _is_listed(name)]
        below = Path(parent).relative_to(folder)
        for name in folders:
            yield (below / name).as_posix(), None
        for name in filter(_is_listed, files):
            size = _size_of(Path(parent) / name)
            if size is not None:
                yield (below / name).as_posix(), size
        if not recursive:
            return


def _size_of(path: Path) -> int | None:
    """Return the size of a regular file; None for anything else, a file deleted meanwhile or a broken link."""
    try:
        status = path.stat()
    except OSError as error:
        if isinstance(error, FileNotFoundError) or path.is_symlink():
            return None
        raise
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _is_listed(name: str) -> bool:
    try:
        return not name.startswith(".") and bool(name.encode())
    except UnicodeEncodeError:
        return False


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def parse_record(content: bytes) -> dict[str, Any]:
    """Parse a JSON object whose numbers are finite and whose strings can be encoded as UTF-8.

    Raises:
        ValueError: The content is not such an object.
    """
    value = read_json(content.decode())
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found a {type(value).__name__}")
    if b"\\ud" in content.lower():  # maybe half of a surrogate pair, which cannot be encoded
        json.dumps(value, ensure_ascii=False).encode()
    return value


def read_file(path: Path, at_most: int | None) -> bytes:
    """Return a regular file's bytes, without waiting for a pipe that has no writer.

    Raises:
        DamagedRecordError: The file is larger than ``at_most`` bytes.
        PermanentStorageError: It is not a regular file.
        OSError: It does not exist, or cannot be read.
    """
    try:
        opened = open_regular(path)
    except IsADirectoryError as error:
        raise permanent(IsADirectoryError(errno.EISDIR, "", str(path)), str(path)) from error
    except OSError as error:
        if error.filename is not None:
            raise
        raise PermanentStorageError(
            f"storage {path}: is not a regular file; check what is at that path"
        ) from error
    with opened as file:
        size = os.fstat(file.fileno()).st_size
        if at_most is not None and size > at_most:
            raise too_large(str(path), size, at_most)
        return file.read()


def too_large(place: str, size: int, at_most: int) -> DamagedRecordError:
    """Return the error for a file that is too large to be a record."""
    return DamagedRecordError(
        f"storage {place}: has {size:,} bytes, but a record has at most {at_most:,}; restore that file from a backup"
    )
