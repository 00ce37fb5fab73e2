"""A private cache of SHA-256 by file identity, so that an unchanged file is hashed once."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ...storage.folders import write_file
from .files import Identity

_FILE = "hashes-1"
_MAX_ENTRIES = 512
_MAX_BYTES = 128 * 2**10
# A file that changes twice within one tick of its file system's clock keeps its ctime, so only an older ctime
# proves that the content is the one that was hashed (git's "racily clean" entries).
_SETTLED_NS = 2 * 10**9


def cache_folder() -> Path | None:
    """Return distiltune's cache folder by the XDG base directory specification; None without a home directory."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given / "distiltune"
    try:
        return Path.home() / ".cache" / "distiltune"
    except RuntimeError:
        return None


def load_hashes() -> dict[Identity, str]:
    """Load the cache; it is empty if it cannot be trusted: a link, owned by another user, or writable by others."""
    folder = cache_folder()
    if folder is None or not hasattr(os, "geteuid"):
        return {}
    try:
        if not _is_private(folder.lstat(), stat.S_ISDIR):
            return {}
        descriptor = os.open(folder / _FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not _is_private(os.fstat(descriptor), stat.S_ISREG):
                return {}
            lines = file.read(_MAX_BYTES).decode("ascii").splitlines()
        return dict(map(_parse, lines))
    except (OSError, ValueError):
        return {}


def save_hashes(known: Mapping[Identity, str], new: Mapping[Identity, str]) -> None:
    """Add ``new`` to the cache that contained ``known``; a cache that cannot be written is left unchanged."""
    settled = time.time_ns() - _SETTLED_NS
    new = {each: digest for each, digest in new.items() if each.ctime_ns < settled}
    folder = cache_folder()
    if folder is None or not new or not hasattr(os, "geteuid"):
        return
    entries = list(({**known, **new}).items())[-_MAX_ENTRIES:]
    text = "".join(f"{' '.join(map(str, each))} {digest}\n" for each, digest in entries)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(folder.lstat(), stat.S_ISDIR):
            return
        write_file(folder / _FILE, text, private=True)
    except OSError:
        pass


def _is_private(status: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    """Return whether a file is of the given kind, owned by this user, and writable by nobody else."""
    return is_kind(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _parse(line: str) -> tuple[Identity, str]:
    *numbers, digest = line.split(" ")
    if len(digest) != 64 or len(numbers) != len(Identity._fields):
        raise ValueError(line)
    return Identity(*map(int, numbers)), digest
