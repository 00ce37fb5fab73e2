"""Temporary directories that do not outlive their process: a later process removes those of killed ones."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "distiltune-"
_SUFFIX = ".tmp"  # so that nothing that a person made, such as /tmp/distiltune-runs, is taken for abandoned


class TemporaryDirectory:
    """A directory that only this user enters, locked while this process lives.

    The lock is the kernel's (``flock`` on the directory itself), so it goes with the process however that ends, and
    nothing in the directory can be planted in its place. What is made here has no use for anybody else, so the first
    directory that a process makes also removes those that killed processes of the same user left.

    Args:
        purpose: Part of its name, such as ``teacher``.
        parent: Where it is made; by default the system's temporary directory.
        prefix: What its name begins with, before the purpose.
    """

    def __init__(self, purpose: str, parent: Path | None = None, prefix: str = PREFIX) -> None:
        parent = parent or Path(tempfile.gettempdir())
        _remove_abandoned_once(parent, prefix)
        self.path, self._lock = _locked_directory(f"{prefix}{purpose}-" if purpose else prefix, parent)

    def remove(self) -> None:
        """Delete it with all that it holds; a second time does nothing."""
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = None


@contextmanager
def temporary_directory(purpose: str) -> Iterator[Path]:
    """Make a directory for a block, and delete it after the block, or after the process if that is killed."""
    directory = TemporaryDirectory(purpose)
    try:
        yield directory.path
    finally:
        directory.remove()


def remove_abandoned(
    parent: Path, prefix: str = PREFIX, before: Callable[[Path], None] = lambda _: None
) -> list[Path]:
    """Delete this user's temporary directories whose processes are gone.

    Links and directories of other users are left alone, whatever their name.

    Args:
        parent: Where they are looked for.
        prefix: What their names begin with.
        before: Called with each before it is deleted.

    Returns:
        Those that were deleted.
    """
    removed = []
    for path in sorted(parent.glob(f"{prefix}*{_SUFFIX}")):
        with suppress(OSError):
            lock = _open_own(path)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                before(path)
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path)
            finally:
                os.close(lock)
    return removed


def short_temporary_directory() -> Path:
    """Return a temporary directory with a short path, as Ray's sockets need; ``TMPDIR`` often has a long one."""
    return Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())


_looked_in: set[tuple[Path, str]] = set()


def _remove_abandoned_once(parent: Path, prefix: str) -> None:
    if (parent, prefix) not in _looked_in:
        _looked_in.add((parent, prefix))
        remove_abandoned(parent, prefix)


def _locked_directory(prefix: str, parent: Path) -> tuple[Path, int]:
    """Make a directory and lock it; one that another process removed in between is made again."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, suffix=_SUFFIX, dir=parent))
        lock = None
        try:
            lock = _open_own(path)
            with suppress(OSError):  # a file system without locks: nobody else can lock and remove it either
                fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(lock), path.lstat()):
                return path, lock
        except FileNotFoundError:
            pass
        if lock is not None:
            os.close(lock)


def _open_own(path: Path) -> int:
    """Open a directory of this user; raises ``OSError`` for a link, another kind of file or another's directory."""
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(opened)
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        os.close(opened)
        raise PermissionError(f"{path} belongs to another user")
    return opened
