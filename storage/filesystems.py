"""From a URL to a file system: pyarrow's own ones first, fsspec's for every other scheme."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from ..errors import ConfigError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


def is_url(path: str) -> bool:
    """Whether a path names a scheme, ``file://`` included."""
    return re.match(r"^[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def local_path(path: str) -> Path | None:
    """The directory that a plain path or a ``file://`` URL names, absolute; None for every other URL."""
    if path.startswith("file://"):
        return Path(path.removeprefix("file://")).absolute()
    return None if is_url(path) else Path(path).expanduser().absolute()


def with_endpoint(url: str, endpoint: str | None) -> str:
    """Add ``endpoint_override``, ``http://host:port`` or ``host:port``, to an ``s3://`` URL.

    Raises:
        ConfigError: The URL is not of S3, or the endpoint has a path.
    """
    if endpoint is None or "endpoint_override=" in url:
        return url
    if not url.startswith("s3://"):
        raise ConfigError(
            f"storage.endpoint_override: {endpoint!r} given, and only s3:// has endpoints; storage.path is {url!r}"
        )
    parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
    if not parts.netloc or parts.path.strip("/"):
        raise ConfigError(
            f"storage.endpoint_override: {endpoint!r} given; give a host and port, for example http://127.0.0.1:9000"
        )
    query = urlencode({"endpoint_override": parts.netloc, "scheme": parts.scheme}, safe=":")
    return f"{url}{'&' if '?' in url else '?'}{query}"


def open_filesystem(url: str) -> tuple[FileSystem, str]:
    """The file system of a URL or path, and the place in it.

    Raises:
        ConfigError: The scheme is unknown, the URL is malformed, or the package that knows it is missing.
    """
    import pyarrow
    from pyarrow import fs

    directory = local_path(url)
    if directory is not None:
        return fs.LocalFileSystem(), str(directory)
    try:
        filesystem, root = fs.FileSystem.from_uri(url)
    except pyarrow.ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise ConfigError(f"storage.path: {url!r}: {error}") from None
    except OSError as error:
        raise ConfigError(f"storage.path: {url!r} cannot be opened: {error}") from None
    else:
        if not root.strip("/"):
            raise ConfigError(
                f"storage.path: {url!r} names no bucket; give one, for example s3://bucket/runs"
            )
        return filesystem, root.rstrip("/")
    return _open_with_fsspec(url)


def _open_with_fsspec(url: str) -> tuple[FileSystem, str]:
    import fsspec
    from pyarrow import fs

    try:
        filesystem, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"storage.path: {url!r}: {str(error).splitlines()[0]}; "
            "give a directory, s3://, gs://, or install the fsspec package for that scheme"
        ) from None
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), str(root).rstrip("/")
