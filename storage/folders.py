"""Write atomic files and folders, and compute the SHA-256 of a file."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LARGE = 2**20  # bytes; a smaller file is copied rather than linked


@contextmanager
def new_folder(target: Path, *, keep_existing: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``target``, and rename it to ``target`` when the block succeeds.

    No reader sees a partial folder. An existing ``target`` is replaced, and the last of several concurrent
    writers wins; for a moment during the replacement, ``target`` may not exist.

    Args:
        target: The final path.
        keep_existing: Keep a ``target`` that is not empty, and discard the new folder: for content that is
            determined by its name and that another process may be reading.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp creates private folders
        _take_name(folder, target, keep_existing)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _take_name(folder: Path, target: Path, keep_existing: bool) -> None:
    while True:
        try:
            folder.replace(target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if keep_existing:
            return
        # A non-empty folder cannot be replaced in one step: move it aside, and try again.
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        with suppress(FileNotFoundError):  # another writer was faster
            target.replace(aside)
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def new_file(target: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``target``, and rename the file to ``target`` when the block succeeds.

    No reader sees a partial file, and nothing is left of a file that cannot be written.

    Args:
        target: The final path; parent folders are created.
        private: Create the file first, readable and writable by this user only.

    Raises:
        OSError: The file cannot be written, or the block has not written it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(target)
    try:
        if private:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield temporary
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_file(path: Path, content: bytes | str, *, private: bool = False) -> None:
    """Write an atomic file; text is encoded as UTF-8.

    Args:
        path: The file; parent folders are created.
        content: Content of the file.
        private: Make the file readable and writable by this user only.

    Raises:
        OSError: The file cannot be written; an existing file of that name is kept.
    """
    with new_file(path, private=private) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Make ``target`` the same file as ``source`` if it is large and both are on one file system, else copy it.

    Use it only for files that are replaced as a whole, as by ``new_file``, and never written in place.

    Raises:
        OSError: The source cannot be read, or the target cannot be written.
    """
    if Path(source).stat().st_size >= _LARGE:
        with suppress(OSError):  # another file system, or one without links
            os.link(source, target, follow_symlinks=True)
            return
    shutil.copy2(source, target)


def temporary_beside(target: Path) -> Path:
    """Return a unique path in the same folder, with a name that a store's listings leave out."""
    return target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
