"""Temporary directories that do not outlive their process: a later process removes those of killed ones."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "distiltune-"
_SUFFIX = ".tmp"  # so that a user's own folder, such as /tmp/distiltune-runs, is never taken for abandoned


class TemporaryDirectory:
    """A private temporary directory, locked while this process lives.

    The lock is the kernel's (``flock`` on the directory itself), so it is released however the process ends, and
    no file in the directory can be planted in its place. The content is of no use to any other process, so the first
    directory that a process creates also removes those that killed processes of the same user left.

    Args:
        purpose: Part of its name, such as ``teacher``.
        parent: Parent directory; by default the system's temporary directory.
        prefix: Start of its name, before the purpose.
    """

    def __init__(self, purpose: str, parent: Path | None = None, prefix: str = PREFIX) -> None:
        parent = parent or Path(tempfile.gettempdir())
        _remove_abandoned_once(parent, prefix)
        self.path, self._lock = _locked_directory(f"{prefix}{purpose}-" if purpose else prefix, parent)

    def remove(self) -> None:
        """Delete the directory with its content; a second call does nothing."""
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = None


@contextmanager
def temporary_directory(purpose: str) -> Iterator[Path]:
    """Create a directory for a block, and delete it afterwards; if this process is killed, a later one deletes it."""
    directory = TemporaryDirectory(purpose)
    try:
        yield directory.path
    finally:
        directory.remove()


def remove_abandoned(
    parent: Path, prefix: str = PREFIX, before: Callable[[Path], None] = lambda _: None
) -> list[Path]:
    """Delete this user's temporary directories whose processes have ended.

    Links, and directories of other users, are never deleted, whatever their name.

    Args:
        parent: Directory to search.
        prefix: Start of their names.
        before: Called with each directory before it is deleted.

    Returns:
        The deleted directories.
    """
    found = sorted(parent.glob(f"{prefix}*{_SUFFIX}"))
    return [path for path in found if remove_if_abandoned(path, before)]


def abandoned(parent: Path, prefix: str = PREFIX, older_than_s: float = 0.0) -> list[Path]:
    """Return the directories that ``remove_abandoned`` would delete and that are older than ``older_than_s``."""
    cutoff = time.time() - older_than_s
    return [
        path
        for path in sorted(parent.glob(f"{prefix}*{_SUFFIX}"))
        if _is_older(path, cutoff) and _call_if_abandoned(path, lambda _: None)
    ]


def remove_if_abandoned(path: Path, before: Callable[[Path], None] = lambda _: None) -> bool:
    """Delete one temporary directory of this user unless its process lives; return whether it was deleted."""

    def remove(path: Path) -> None:
        before(path)
        shutil.rmtree(path, ignore_errors=True)

    return _call_if_abandoned(path, remove)


def _call_if_abandoned(path: Path, work: Callable[[Path], None]) -> bool:
    """Lock a directory of this user that no process holds, and call ``work`` with it; return whether it was called."""
    with suppress(OSError):
        lock = _open_own(path)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            work(path)
            return True
        finally:
            os.close(lock)
    return False


def _is_older(path: Path, cutoff: float) -> bool:
    with suppress(OSError):
        return path.lstat().st_mtime < cutoff
    return False


def short_temporary_directory() -> Path:
    """Return a temporary directory with a short path, which Ray's sockets need; that of ``TMPDIR`` is often long."""
    return Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())


_searched: set[tuple[Path, str]] = set()


def _remove_abandoned_once(parent: Path, prefix: str) -> None:
    if (parent, prefix) not in _searched:
        _searched.add((parent, prefix))
        remove_abandoned(parent, prefix)


def _locked_directory(prefix: str, parent: Path) -> tuple[Path, int]:
    """Create and lock a directory; retry if another process removed it in between."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, suffix=_SUFFIX, dir=parent))
        lock = None
        try:
            lock = _open_own(path)
            # On a file system without locks, no other process can lock and remove the directory either.
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(lock), path.lstat()):
                return path, lock
        except FileNotFoundError:
            pass
        if lock is not None:
            os.close(lock)


def _open_own(path: Path) -> int:
    """Open a directory of this user; raise ``OSError`` for links, other files and other users' directories."""
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(opened)
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        os.close(opened)
        raise PermissionError(f"{path} belongs to another user")
    return opened
