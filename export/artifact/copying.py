"""Copy a folder to a location that the user names: completely or not at all, and never into itself."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...errors import InputError

# Younger folders may belong to a copy that has not locked its folder yet.
_LEFT_BEHIND_S = 60.0
_REMEDIES = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some space, or choose another folder",
    errno.EACCES: "choose a folder that you can write to",
    errno.EPERM: "choose a folder that you can write to",
    errno.EROFS: "choose a folder that you can write to",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ENOTDIR: "there is a file where a folder must be; choose another folder",
    errno.EEXIST: "it already exists; choose another folder",
    errno.ENOTEMPTY: "it already exists; choose another folder",
    errno.ELOOP: "its symbolic links form a loop; choose another folder",
}


def copy_folder(
    source: Path, target: str | Path, names: Sequence[str], *, check: Callable[[Path], Any]
) -> Path:
    """Copy files of a folder into a new folder, atomically.

    The copy is made under a hidden temporary name beside ``target``. Leftovers of a killed copy to the same ``target``
    are removed.

    Args:
        source: The folder to copy from.
        target: The folder to create: absent or empty, outside ``source``; ``~`` is the user's home.
        names: Names of the files in ``source``.
        check: Called with the copy before it is renamed to ``target``; an exception aborts the copy.

    Returns:
        ``target``, with ``~`` replaced.

    Raises:
        InputError: ``target`` exists and is not empty, is not outside ``source``, or cannot be written.
    """
    target = folder_to_make(target)
    with folder_at(target, source) as folder:
        for name in names:
            shutil.copyfile(source / name, folder / name)
        check(folder)
    return target


@contextmanager
def folder_at(target: Path, source: Path | None = None) -> Iterator[Path]:
    """Yield a hidden temporary folder beside ``target``, and rename it to ``target`` when the block succeeds.

    Args:
        target: The folder to create: absent or empty.
        source: A folder that ``target`` must be outside of.

    Raises:
        InputError: ``target`` exists and is not empty, is not outside ``source``, or cannot be written.
    """
    try:
        place = _free_place(source, target)
        with _new_parents(place.parent), _locked_folder_beside(place) as folder:
            yield folder
            folder.rename(place)
    except RuntimeError as error:  # raised by resolve
        raise InputError(
            f"--to: {str(target)!r:.200} has symbolic links that form a loop; choose another folder"
        ) from error
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "choose another folder")
        raise InputError(
            f"--to: cannot write {str(target)!r:.200} ({error.strerror or error}); {remedy}"
        ) from error


def is_of_disk(error: BaseException) -> bool:
    """Return whether an error comes from the file system of this machine, such as no space or no permission."""
    return isinstance(error, OSError) and error.errno in _REMEDIES


def folder_to_make(given: str | Path) -> Path:
    """Return the folder that the user names, with ``~`` expanded.

    Raises:
        InputError: The name is empty, contains a NUL, or refers to the home of an unknown user.
    """
    if not str(given).strip():
        raise InputError(f"--to is {str(given)!r}; give the folder to create")
    if "\0" in str(given):
        raise InputError(f"--to is {str(given)!r:.200}; a folder's name cannot contain NUL")
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise InputError(
            f"--to is {str(given)!r:.200}, and that user has no home directory here; give the full path"
        ) from None


def _free_place(source: Path | None, target: Path) -> Path:
    """Resolve ``target``, and check that it can be created.

    Raises:
        InputError: It exists and is not an empty folder, or is the source, inside it, or contains it.
    """
    place, origin = target.resolve(), source.resolve() if source else None
    if origin is not None and (place == origin or origin in place.parents or place in origin.parents):
        relation = "is" if place == origin else "is inside" if origin in place.parents else "holds"
        raise InputError(
            f"--to: {str(target)!r:.200} {relation} the artifact's own folder {origin}; choose a folder outside it"
        )
    if (
        target.is_symlink()
        or (place.exists() and not place.is_dir())
        or (place.is_dir() and any(place.iterdir()))
    ):
        raise InputError(f"--to: {str(target)!r:.200} already exists; choose a folder that does not exist")
    return place


@contextmanager
def _new_parents(parent: Path) -> Iterator[None]:
    """Create a folder and its parents; if the block fails, remove those that were created."""
    missing = [each for each in (parent, *parent.parents) if not os.path.lexists(each)]
    try:
        if os.path.lexists(parent) and not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(parent))
        parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for each in missing:  # the deepest first
            with suppress(OSError):
                each.rmdir()
        raise


@contextmanager
def _locked_folder_beside(place: Path) -> Iterator[Path]:
    """Create a temporary folder on the same file system, so that a rename can move it into place.

    Its lock is released when this process ends, however it ends, so that the next copy to the same place detects that
    the folder is abandoned.
    """
    prefix = f".pull-{hashlib.sha256(os.fsencode(place.name)).hexdigest()[:12]}-"
    _remove_left_behind(place.parent, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place.parent))
    lock = None
    try:
        lock = _lock(folder)
        folder.chmod(0o755)  # else the copy would keep mkdtemp's 0700
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _remove_left_behind(parent: Path, prefix: str) -> None:
    for folder in parent.glob(f"{prefix}*"):
        with suppress(OSError):
            status = folder.lstat()
            if time.time() - status.st_mtime < _LEFT_BEHIND_S or status.st_uid != os.geteuid():
                continue
            lock = _lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock a folder and return its descriptor; None where another process holds the lock, or locks are unsupported."""
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
