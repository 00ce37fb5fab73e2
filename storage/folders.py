"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
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


def write_file(path: Path, content: bytes) -> None:
    """Write a file of which no reader sees half."""
    put_file(path, lambda temporary: temporary.write_bytes(content))


def put_file(path: Path, make: Callable[[Path], object]) -> None:
    """Let ``make`` write a file beside ``path``, which then takes its name; nothing stays of one that cannot be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        make(temporary)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
