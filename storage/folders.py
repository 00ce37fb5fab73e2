"""Files and folders that appear whole or not at all, and the SHA-256 of a file."""

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


@contextmanager
def new_folder(target: Path, *, keep_existing: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its name when the block ends well.

    No reader sees half of it. An earlier ``target`` is replaced, and of several writers at once the last wins;
    for a moment in between nothing may stand there.

    Args:
        target: The name to take.
        keep_existing: Leave a ``target`` that holds something where it is, and drop the new folder: for
            content that the name says, which another may be reading.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp makes it private
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
        # A folder that holds something cannot be replaced in one step: move it aside, and try again.
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        with suppress(FileNotFoundError):  # another writer was faster
            target.replace(aside)
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def new_file(target: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; the file written there takes that name when the block ends well.

    No reader sees half of it, and nothing stays of a file that cannot be written.

    Args:
        target: The name to take; folders above it are made.
        private: Create the file first, readable and writable by this user only.

    Raises:
        OSError: It cannot be written, or the block has written nothing.
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
    """Write a file of which no reader sees half; text as UTF-8.

    Args:
        path: The file; folders above it are made.
        content: What it is to hold.
        private: Let this user alone read it.

    Raises:
        OSError: It cannot be written; an earlier file of that name stays.
    """
    with new_file(path, private=private) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def temporary_beside(target: Path) -> Path:
    """Return a name in the same folder that nobody else uses, and that no listing of a store shows."""
    return target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
