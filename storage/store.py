"""Store of records and folders by key; no reader ever sees a partial one."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock

from ..errors import DamagedRecordError, InputError, PermanentStorageError, StorageError
from .filesystems import local_path, open_filesystem
from .folders import file_sha256, new_file, new_folder, write_file
from .reading import check_key, entries_of, parse_record, read_file, too_large
from .retry import retrying

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

Result = TypeVar("Result")

RETRY_S = 60.0
LISTING = ".folder.json"  # suffix of the file beside a published folder: its files with size and SHA-256
_READ_ATTEMPTS = 5
_LONGEST_FAULT = 100  # characters of a parser's message
_RECORD_BYTES = 64 * 2**20  # maximum size of a record
_OBJECT_STORES = ("S3FileSystem", "GcsFileSystem", "AzureFileSystem")  # their writes are atomic


class Store:
    """Records and folders below a URL; keys are relative paths with ``/``.

    In a directory, a folder is at the path of its key and is used in place. In other stores it is created and used
    in a local mirror: ``publish`` uploads it, ``fetch`` downloads it. A store can be pickled and used on every
    node. Its operations are retried for ``retry_s`` seconds before they raise StorageError.

    Args:
        url: A path, or a URL that pyarrow (``s3://``, ``gs://``, ``file://``, …) or fsspec supports.
        retry_s: Seconds to retry an operation for.

    Raises:
        ConfigError: The URL is not supported or contains credentials, or the path is not a valid directory name.
    """

    def __init__(self, url: str, retry_s: float = RETRY_S) -> None:
        directory = local_path(url)
        self.url = url if directory is None else str(directory)
        self.retry_s = retry_s
        self.directory = directory
        """The store's directory on this machine; None for a remote store."""
        if directory is None:
            _ = self._opened  # rejects an unsupported URL

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.url, self.retry_s)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Store) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __str__(self) -> str:
        return self.location()

    @cached_property
    def once(self) -> Store:
        """The same store without retries, for callers that must not wait."""
        return Store(self.url, retry_s=0)

    @cached_property
    def _opened(self) -> tuple[FileSystem, str]:
        return open_filesystem(self.url)

    @property
    def filesystem(self) -> FileSystem:
        """The pyarrow file system."""
        return self._opened[0]

    @property
    def _is_object_store(self) -> bool:
        """Whether writes are atomic and folders need not be created."""
        return type(self.filesystem).__name__ in _OBJECT_STORES

    def at(self, key: str = "") -> str:
        """Return the path of a key within ``filesystem``.

        Raises:
            InputError: The key would lead out of the store.
        """
        check_key(key)
        root = self._opened[1]
        return f"{root}/{key}" if key else root

    def location(self, key: str = "") -> str:
        """Return the location of a key for display: a path, or a URL without its options."""
        base = str(self.directory or self.url.partition("?")[0].rstrip("/"))
        return f"{base}/{key}" if key else base

    # Records

    def read(self, key: str, at_most: int | None = None) -> bytes | None:
        """Return the bytes under a key; None where there are none.

        Args:
            key: Key to read.
            at_most: Largest size in bytes that is accepted.

        Raises:
            PermanentStorageError: The file is larger, or is not a regular file.
        """
        check_key(key)

        def operation() -> bytes | None:
            try:
                if self.directory is not None:
                    return read_file(self.directory / key, at_most)
                with self.filesystem.open_input_file(self.at(key)) as file:
                    if at_most is not None and file.size() > at_most:
                        raise too_large(self.location(key), file.size(), at_most)
                    return file.read()
            except (FileNotFoundError, NotADirectoryError):
                return None

        return self._retrying(operation, key)

    def write(self, key: str, content: bytes) -> None:
        """Write bytes under a key, atomically: a reader sees the old content or the new, never a mix."""
        check_key(key)

        def operation() -> None:
            if self.directory is not None:
                write_file(self.directory / key, content)
                return
            is_atomic = self._is_object_store
            target = self.at(key) if is_atomic else f"{self.at(key)}.{secrets.token_hex(4)}.part"
            if not is_atomic:
                self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            with self.filesystem.open_output_stream(target) as file:
                file.write(content)
            if not is_atomic:
                self.filesystem.move(target, self.at(key))

        self._retrying(operation, key)

    def read_json(self, key: str, remedy: str = "restore that file from a backup") -> dict[str, Any] | None:
        """Return the record under a key; None where there is none.

        Args:
            key: Key to read.
            remedy: What to do about a damaged record, for the message.

        Raises:
            DamagedRecordError: The content is not a JSON object of finite values.
        """
        fault = ""
        # An object is read in two requests, size and content: if it is replaced in between, it arrives truncated.
        for attempt in range(1 if self.directory is not None else _READ_ATTEMPTS):
            content = self.read(key, _RECORD_BYTES)
            if content is None:
                return None
            try:
                return parse_record(content)
            except ValueError as error:
                fault = f"{error}"[:_LONGEST_FAULT] or "it is nested too deeply"
                time.sleep(0.05 * attempt)
        raise DamagedRecordError(f"storage {self.location(key)}: is damaged ({fault}); {remedy}")

    def write_json(self, key: str, record: Any) -> None:
        """Write a record of finite JSON values."""
        self.write(key, (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())

    def delete(self, key: str) -> None:
        """Delete a record, or a folder with its content; a key that does not exist is not an error."""
        from pyarrow.fs import FileType

        def operation() -> None:
            info = self.filesystem.get_file_info(self.at(key))
            if info.type == FileType.Directory:
                self.filesystem.delete_dir(self.at(key))
            elif info.type == FileType.File:
                self.filesystem.delete_file(self.at(key))

        try:
            self._retrying(operation, key)
        except FileNotFoundError:  # another process was faster
            return

    def names(self, key: str = "") -> list[str]:
        """List the names directly below a key, sorted; a published folder's listing file is left out."""
        return sorted(name for name, _ in self._entries(key, recursive=False) if not name.endswith(LISTING))

    def sizes(self, key: str) -> dict[str, int]:
        """Return the relative path and size in bytes of every file below a key."""
        return {name: size for name, size in self._entries(key, recursive=True) if size is not None}

    def _entries(self, key: str, *, recursive: bool) -> list[tuple[str, int | None]]:
        if self.directory is not None:
            folder = self.directory / key
            check_key(key)
            return self._retrying(lambda: list(entries_of(folder, recursive=recursive)), key)
        from pyarrow.fs import FileSelector, FileType

        base = self.at(key).rstrip("/") + "/"
        selector = FileSelector(self.at(key), recursive=recursive, allow_not_found=True)
        found = self._retrying(lambda: self.filesystem.get_file_info(selector), key)
        entries = []
        for info in found:
            # fsspec's listings may add a leading slash to the given path, or drop it.
            name = info.path.lstrip("/").removeprefix(base.lstrip("/"))
            if name and not name.rpartition("/")[2].startswith("."):
                entries.append((name, info.size if info.type == FileType.File else None))
        return entries

    def upload(self, source: Path, key: str) -> None:
        """Upload a local file to a key, without reading it into memory."""
        check_key(key)
        from pyarrow import fs

        def operation() -> None:
            if self.directory is not None:
                with new_file(self.directory / key) as temporary:
                    shutil.copyfile(source, temporary)
                return
            if not self._is_object_store:
                self.filesystem.create_dir(self.at(key).rpartition("/")[0], recursive=True)
            fs.copy_files(
                str(source),
                self.at(key),
                source_filesystem=fs.LocalFileSystem(),
                destination_filesystem=self.filesystem,
            )

        self._retrying(operation, key)

    def download(self, key: str, target: Path) -> None:
        """Download the file under a key to a local file.

        Raises:
            FileNotFoundError: There is none.
        """
        from pyarrow import fs

        target.parent.mkdir(parents=True, exist_ok=True)

        def operation() -> None:
            fs.copy_files(
                self.at(key),
                str(target),
                source_filesystem=self.filesystem,
                destination_filesystem=fs.LocalFileSystem(),
            )

        self._retrying(operation, key)

    # Folders

    def local(self, key: str) -> Path:
        """Return the local path of a folder: in place, or in the mirror."""
        check_key(key)
        if self.directory is not None:
            return self.directory / key
        return _mirror() / hashlib.sha256(self.url.encode()).hexdigest()[:16] / key

    def publish(self, key: str, *, shared: bool = False) -> None:
        """Upload the folder that was created in ``local(key)``; in a directory it is in place already.

        Its listing is uploaded last: until then, and when the upload is interrupted, the folder does not exist.

        Args:
            key: Key of the folder.
            shared: Whether several processes may upload it at once, with equivalent content since the key determines
                it: the first complete upload is kept, and ``fetch`` downloads that one.
        """
        if self.directory is not None or (shared and self.has_folder(key)):
            return
        folder = self.local(key)
        # Each upload of a shared folder has its own subfolder, so that concurrent uploads do not mix their files.
        below = secrets.token_hex(4) if shared else ""
        listing = {"below": below, "files": _listing(folder)}
        content = json.dumps(listing, indent=2).encode()
        if not shared:
            self.delete(key + LISTING)
            self.delete(key)
        for name in listing["files"]:
            self.upload(folder / name, _join(key, below, name))
        if shared and self.has_folder(key):  # another process was faster
            self.delete(_join(key, below))
            return
        self.write(key + LISTING, content)
        write_file(folder.with_name(folder.name + LISTING), content)

    def has_folder(self, key: str) -> bool:
        """Return whether a complete folder exists under the key."""
        check_key(key)
        if self.directory is not None:
            folder = self.directory / key
            return self._retrying(folder.is_dir, key)
        return self.read(key + LISTING) is not None

    def fetch(self, key: str) -> Path:
        """Download a published folder unless a local copy is current, verify it, and return its local path.

        Raises:
            FileNotFoundError: There is none.
            StorageError: A file differs from what was uploaded.
        """
        folder = self.local(key)
        if self.directory is not None:
            if not self.has_folder(key):
                raise FileNotFoundError(f"{folder} does not exist")
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Another process on this machine may be reading or replacing the same copy.
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            self._update_mirror(key, folder)
        return folder

    def _update_mirror(self, key: str, folder: Path) -> None:
        content = self.read(key + LISTING, _RECORD_BYTES)
        if content is None:
            raise FileNotFoundError(f"{self.location(key)} does not exist")
        local_listing = folder.with_name(folder.name + LISTING)
        below, files = self._parse_listing(key, content)
        local_sizes = {name: (folder / name).stat().st_size for name in files if (folder / name).is_file()}
        is_same_listing = local_listing.is_file() and local_listing.read_bytes() == content
        if is_same_listing and local_sizes == {name: entry["bytes"] for name, entry in files.items()}:
            return
        with new_folder(folder) as incoming:
            for name in files:
                self.download(_join(key, below, name), incoming / name)
            if _listing(incoming) != files:
                raise PermanentStorageError(
                    f"storage {self.location(key)}: differs from what was uploaded (the SHA-256 of a file does not "
                    f"match); restore its files from a backup, or recreate it under another --run-id"
                )
        write_file(local_listing, content)

    def _parse_listing(self, key: str, content: bytes) -> tuple[str, dict[str, dict[str, Any]]]:
        """Parse a folder's listing, and check that it names no file outside its folder."""
        try:
            listing = parse_record(content)
            below, files = listing["below"], listing["files"]
            for name in (below, *files):
                check_key(name)
            if not all(isinstance(entry["bytes"], int) for entry in files.values()):
                raise ValueError("a size is not a number")
        except (InputError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            what = (
                f"refers outside of its folder ({error})"
                if isinstance(error, InputError)
                else "is not a list of files"
            )
            raise DamagedRecordError(
                f"storage {self.location(key)}{LISTING}: the listing {what}; restore that file from a backup"
            ) from None
        return below, files

    def _retrying(self, operation: Callable[[], Result], key: str) -> Result:
        return retrying(operation, self.location(key), self.retry_s)


def _join(*names: str) -> str:
    return "/".join(name for name in names if name)


def _mirror() -> Path:
    """Return the directory of local copies: $DISTILTUNE_CACHE, else one below the system's temporary directory."""
    given = os.environ.get("DISTILTUNE_CACHE")
    path = Path(given) if given else Path(tempfile.gettempdir()) / f"distiltune-cache-{os.getuid()}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not given and (path.is_symlink() or path.stat().st_uid != os.getuid()):
        raise StorageError(f"{path} belongs to another user; set DISTILTUNE_CACHE to a directory of your own")
    return path


def _listing(folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = {
                "bytes": path.stat().st_size,
                "sha256": file_sha256(path),
            }
    return found
