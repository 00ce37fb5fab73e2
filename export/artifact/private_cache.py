"""Files of a cache that only this user can write, such as that of hashes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from ...storage.folders import write_file

_MAX_BYTES = 128 * 2**10


def cache_folder() -> Path | None:
    """Return distiltune's cache folder by the XDG base directory specification; None without a home directory."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given / "distiltune"
    try:
        return Path.home() / ".cache" / "distiltune"
    except RuntimeError:
        return None


def read_lines(name: str) -> list[str]:
    """Return the lines of a cache file; none if it cannot be trusted: a link, another user's, or writable by others."""
    folder = cache_folder()
    if folder is None or not hasattr(os, "geteuid"):
        return []
    try:
        if not _is_private(folder.lstat(), stat.S_ISDIR):
            return []
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not _is_private(os.fstat(descriptor), stat.S_ISREG):
                return []
            return file.read(_MAX_BYTES).decode("ascii").splitlines()
    except (OSError, ValueError):
        return []


def write_lines(name: str, lines: Iterable[str]) -> None:
    """Write a cache file of ASCII lines atomically; one that cannot be written is left unchanged."""
    folder = cache_folder()
    if folder is None or not hasattr(os, "geteuid"):
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_private(folder.lstat(), stat.S_ISDIR):
            write_file(folder / name, "".join(f"{line}\n" for line in lines), private=True)
    except OSError:
        pass


def _is_private(status: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    """Return whether a file is of the given kind, owned by this user, and writable by nobody else."""
    return is_kind(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
