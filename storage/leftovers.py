"""Find what killed processes left in a store: temporary files of writes, and parts of uploads."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from .reading import parse_record
from .retry import retrying
from .store import LISTING, Store

_FOLDERS = ("runs", "cache", "plans")
_FILE = re.compile(r"\..+\.(?P<pid>\d+)\.[0-9a-f]{8}")  # named by temporary_beside
_FOLDER = re.compile(r"\..+\.[a-z0-9_]{8}")  # named by mkdtemp in new_folder
_PART = re.compile(r".+\.[0-9a-f]{8}\.part")  # of Store.write, where writes are not atomic
_PROBE = re.compile(r"probe-[0-9a-f]{8}")  # a check that the store is writable
_UPLOAD = re.compile(r"[0-9a-f]{8}")  # one upload of a shared folder


class StoredFile(NamedTuple):
    """Size and age of a file.

    Attributes:
        num_bytes: Its size.
        modified: Seconds since 1970.
    """

    num_bytes: int
    modified: float


def stored_files(store: Store, key: str) -> dict[str, StoredFile]:
    """Return every file below a key by its path relative to that key, hidden ones included.

    Raises:
        StorageError: The store cannot be read.
    """
    if store.directory is not None:
        folder = store.directory / key
        return retrying(lambda: dict(_files_of(folder)), store.location(key), store.retry_s)
    from pyarrow.fs import FileSelector, FileType

    base = store.at(key).strip("/") + "/"
    selector = FileSelector(store.at(key), recursive=True, allow_not_found=True)
    found = retrying(lambda: store.filesystem.get_file_info(selector), store.location(key), store.retry_s)
    return {
        info.path.strip("/").removeprefix(base): StoredFile(info.size or 0, (info.mtime_ns or 0) / 1e9)
        for info in found
        if info.type == FileType.File
    }


def _files_of(folder: Path) -> Iterable[tuple[str, StoredFile]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent) / name
            with suppress(FileNotFoundError):
                status = path.lstat()
                yield path.relative_to(folder).as_posix(), StoredFile(status.st_size, status.st_mtime)


def leftovers(store: Store, before: float) -> dict[str, int]:
    """Return the key and size in bytes of everything that interrupted writes and uploads left.

    Excluded is what a process may still be writing: what was modified since ``before``, or is named after a process
    that lives on this machine.

    Args:
        store: The store.
        before: Seconds since 1970.

    Raises:
        StorageError: The store cannot be read.
    """
    if store.directory is not None:  # it may also hold folders of other programs, which are not searched
        found = {
            f"{folder}/{name}": size
            for folder in _FOLDERS
            for name, size in _hidden(store.directory / folder, before)
        }
    else:
        found = _uploads(store, before)
    for name, file in stored_files(store, "runs").items():
        last = name.rpartition("/")[2]
        if (_PROBE.fullmatch(last) or _PART.fullmatch(last)) and file.modified < before:
            found[f"runs/{name}"] = file.num_bytes
    return found


def delete_leftover(store: Store, key: str) -> None:
    """Delete what ``leftovers`` found; a key that does not exist is not an error."""
    if store.directory is None:
        store.delete(key)
        return
    path = store.directory / key
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _hidden(directory: Path, before: float) -> Iterable[tuple[str, int]]:
    """Yield path and size of a directory's temporary files and folders; a folder includes everything below it."""
    for parent, folders, names in os.walk(directory):
        for name in [each for each in folders if _FOLDER.fullmatch(each)]:
            folders.remove(name)
            path = Path(parent) / name
            files = [file for _, file in _files_of(path)]
            newest = max([path.lstat().st_mtime, *(file.modified for file in files)])
            if newest < before and not path.is_symlink():
                yield path.relative_to(directory).as_posix(), sum(file.num_bytes for file in files)
        for name in names:
            matched = _FILE.fullmatch(name)
            if matched is None or psutil.pid_exists(int(matched["pid"])):
                continue
            path = Path(parent) / name
            with suppress(FileNotFoundError):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and status.st_mtime < before:
                    yield path.relative_to(directory).as_posix(), status.st_size


def _uploads(store: Store, before: float) -> dict[str, int]:
    """Return the uploads of shared folders that no listing names: their process was killed, or was not the first."""
    files = stored_files(store, "cache")
    uploads: dict[str, list[StoredFile]] = defaultdict(list)
    for name, file in files.items():
        parts = name.split("/")
        if len(parts) > 3 and _UPLOAD.fullmatch(parts[2]):  # KIND/KEY/UPLOAD/…
            uploads["/".join(parts[:3])].append(file)
    found = {}
    for upload, held in uploads.items():
        folder, _, name = upload.rpartition("/")
        if max(file.modified for file in held) < before and _listed_upload(store, f"cache/{folder}") != name:
            found[f"cache/{upload}"] = sum(file.num_bytes for file in held)
    return found


def _listed_upload(store: Store, folder: str) -> str | None:
    """Return the upload that a folder's listing names; None if there is no listing."""
    content = store.read(folder + LISTING)
    try:
        return None if content is None else parse_record(content).get("below")
    except ValueError:
        return None
