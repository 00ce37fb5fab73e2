"""Read the files of an artifact safely: regular files of bounded size, unambiguous JSON, SHA-256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import ArtifactError
from ...storage import safe_reading

MAX_JSON_BYTES = 16 * 2**20
HUB_PREFIX = "hf://"
"""Start of the name of a repository on a model hub."""


class Identity(NamedTuple):
    """Identifies one state of a file: a change of its content changes ``ctime_ns``."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def identity(status: os.stat_result) -> Identity:
    """Return the identity of a file from its status."""
    return Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def is_folder(path: Path) -> bool:
    """Return whether a path leads to a folder; False for an invalid path, such as a name that is too long."""
    try:
        return path.is_dir()
    except OSError:
        return False


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading; reject a pipe or a device without blocking.

    Raises:
        ArtifactError: The file is missing, not a regular file, or cannot be read.
    """
    try:
        file = safe_reading.open_regular(path)
    except FileNotFoundError:
        raise ArtifactError(
            f"{path.parent}: {path.name} is missing; give the folder of an artifact (`distiltune pull` creates one)"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _unreadable(path, error) from None
    with file:
        yield file


def read_regular(path: Path, max_bytes: int) -> tuple[bytes, Identity]:
    """Return a regular file's content, and the identity that it had while it was read.

    Raises:
        ArtifactError: The file cannot be opened or read, has more than ``max_bytes``, or changed meanwhile.
    """
    with open_regular(path) as file:
        before = identity(os.fstat(file.fileno()))
        if before.size > max_bytes:
            raise ArtifactError(
                f"{path} has {before.size} bytes, at most {max_bytes} are accepted; pull the artifact again"
            )
        try:
            content = file.read(max_bytes)
        except OSError as error:
            raise _unreadable(path, error) from None
        if identity(os.fstat(file.fileno())) != before:
            raise changed_meanwhile(path)
    return content, before


def hash_regular(file: BufferedReader, path: Path) -> str:
    """Return the SHA-256, in hexadecimal, of a file from ``open_regular``.

    Raises:
        ArtifactError: The file cannot be read, or changed meanwhile.
    """
    before = identity(os.fstat(file.fileno()))
    try:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None
    if identity(os.fstat(file.fileno())) != before:
        raise changed_meanwhile(path)
    return digest


def changed_meanwhile(path: Path) -> ArtifactError:
    """Return the error for a file that changed between its check and its use."""
    return ArtifactError(f"{path} was changed while it was being read; try again")


def parse_object(content: bytes, path: Path) -> dict[str, Any]:
    """Parse a JSON file that contains an object with unique keys and finite numbers.

    Raises:
        ArtifactError: The content is anything else.
    """
    try:
        value = safe_reading.read_json(content.decode("utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path}: not valid JSON ({error!s:.120})") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{path}: contains {type(value).__name__}; it must be an object")
    return value


def _unreadable(path: Path, error: OSError | ValueError) -> ArtifactError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return ArtifactError(
        f"{str(path)!r:.200} cannot be read ({reason}); give the folder of an artifact that you can read"
    )
