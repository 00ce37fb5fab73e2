"""File system with atomic writes for Tune, used if the store is a directory."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from pyarrow import PythonFile
from pyarrow.fs import FileSelector, FileSystem, FileSystemHandler, LocalFileSystem, PyFileSystem

from ...storage.folders import temporary_beside
from ...storage.store import Store


def tune_filesystem(store: Store) -> FileSystem:
    """Return the file system that Tune writes with.

    Writes to an object store are atomic. In a directory, Tune would overwrite its snapshot in place: a killed driver or
    a full disk would leave a partial snapshot, from which nothing can be resumed.
    """
    return store.filesystem if store.directory is None else PyFileSystem(AtomicFiles())


class AtomicFiles(FileSystemHandler):
    """pyarrow's local file system, except that a file gets its name when it is closed."""

    def __init__(self) -> None:
        self._local = LocalFileSystem()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AtomicFiles)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(AtomicFiles)

    def get_type_name(self) -> str:
        """Return the type name of the file system."""
        return "local"

    def normalize_path(self, path: str) -> str:
        """Delegate to pyarrow's local file system."""
        return self._local.normalize_path(path)

    def get_file_info(self, paths: list[str]) -> Any:
        """Delegate to pyarrow's local file system."""
        return self._local.get_file_info(paths)

    def get_file_info_selector(self, selector: FileSelector) -> Any:
        """Delegate to pyarrow's local file system."""
        return self._local.get_file_info(selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        """Delegate to pyarrow's local file system."""
        self._local.create_dir(path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        """Delegate to pyarrow's local file system."""
        self._local.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        """Delegate to pyarrow's local file system."""
        self._local.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        """Refuse to delete everything."""
        raise NotImplementedError

    def delete_file(self, path: str) -> None:
        """Delegate to pyarrow's local file system."""
        self._local.delete_file(path)

    def move(self, src: str, dest: str) -> None:
        """Delegate to pyarrow's local file system."""
        self._local.move(src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        """Copy a file atomically: under a temporary name first."""
        part = temporary_beside(Path(dest))
        try:
            self._local.copy_file(src, str(part))
            part.replace(dest)
        finally:
            part.unlink(missing_ok=True)

    def open_input_stream(self, path: str) -> Any:
        """Delegate to pyarrow's local file system."""
        return self._local.open_input_stream(path)

    def open_input_file(self, path: str) -> Any:
        """Delegate to pyarrow's local file system."""
        return self._local.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any = None) -> PythonFile:
        """Open a file that gets its name when it is closed; if a write fails, it never does."""
        del metadata
        return PythonFile(_Output(path), mode="w")

    def open_append_stream(self, path: str, metadata: Any = None) -> Any:
        """Delegate to pyarrow's local file system."""
        return self._local.open_append_stream(path, metadata=metadata)


class _Output:
    """An output file; not an ``io`` class, since garbage collection would close that, and so publish a partial file."""

    closed = True

    def __init__(self, path: str) -> None:
        self._path = path
        self._part = temporary_beside(Path(path))
        self._file = self._part.open("wb")
        self.closed = False

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError:
            self._give_up()
            raise

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        if self.closed:
            return
        try:
            self._file.close()
            self._part.replace(self._path)
        except OSError:
            self._give_up()
            raise
        self.closed = True

    def __del__(self) -> None:
        if not self.closed:
            self._give_up()

    def _give_up(self) -> None:
        self.closed = True
        with suppress(OSError):
            self._file.close()
        self._part.unlink(missing_ok=True)
