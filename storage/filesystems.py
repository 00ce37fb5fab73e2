"""Open the file system of a URL: pyarrow's own where it has one, fsspec's for every other scheme."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from ..errors import ConfigError, first_line, shown, user_path

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


# A secret may contain a slash, as those of S3 do; after a port, an @ belongs to the path.
_USERINFO = re.compile(r"[^/?#]*@|[^/?#]*:(?!\d*(?:[/?#]|$)).*@")
_USERINFO_OF_BUCKET = re.compile(r"[^/?#]*:.*@")  # a bucket has no port
_SECRET_OPTION = re.compile(r"key|secret|token|passw|signature|credential(?!_kind)", re.IGNORECASE)
_HOST_AND_PORT = re.compile(r"[\w.-]+(?::(?P<port>\d{1,5}))?", re.ASCII)
_LONGEST_REASON = 120  # characters
_HALF_URL = re.compile(r"(s3|gs|gcs|abfss?|az|hdfs|https?|ftp|file):", re.IGNORECASE)


def is_url(path: str) -> bool:
    """Return whether a path starts with a scheme, ``file://`` included."""
    return re.match(r"^[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def local_path(path: str, parameter: str = "storage.path") -> Path | None:
    """Return the absolute directory that a plain path or a ``file://`` URL names; None for every other URL.

    Raises:
        ConfigError: The path is empty, is not a valid path, or is a URL without its two slashes.
    """
    given = f"{parameter}: {shown(path)} given"
    if path.startswith("file://"):
        if not path.startswith("file:///"):
            raise ConfigError(
                f"{given}, which names a host; use file:///DIR with three slashes, or a directory"
            )
        path = path.removeprefix("file://")
    elif is_url(path):
        return None
    if scheme := _HALF_URL.match(path):
        raise ConfigError(f"{parameter}: a URL of {scheme[1]} without '//' given; write {scheme[1]}://…")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{given}, which is not UTF-8; rename it, or choose another storage with --storage"
        ) from None
    return user_path(path, parameter, ConfigError).absolute()


def refuse_userinfo(parameter: str, url: str) -> None:
    """Reject a URL that contains credentials: they would show up in records, logs and the process list.

    What looks like a user in ``abfs://container@account`` and ``gs://anonymous@bucket`` is not one. The query of
    an ``http://`` URL is not checked, since data may be served under signed URLs.

    Args:
        parameter: Full name of the parameter that holds the URL, for the message.
        url: A URL with its scheme; anything else is accepted.

    Raises:
        ConfigError: The URL contains credentials; the message does not.
    """
    if not is_url(url):
        return
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    found = _USERINFO.match(rest) or (
        _USERINFO_OF_BUCKET.match(rest) if scheme in ("s3", "gs", "gcs") else None
    )
    is_name = scheme in ("abfs", "abfss") and ":" not in rest.partition("@")[0]
    if found and not is_name and not (scheme in ("gs", "gcs") and rest.startswith("anonymous@")):
        raise ConfigError(
            f"{parameter}: {shown(f'{scheme}://…')} contains a user name or a secret before '@'; remove it from "
            f"the URL, and {_credentials_remedy(scheme)}"
        )
    if scheme in ("http", "https"):
        return
    for name, value in parse_qsl(rest.partition("?")[2], keep_blank_values=True):
        if _SECRET_OPTION.search(name) or (name == "endpoint_override" and "@" in value):
            raise ConfigError(
                f"{parameter}: {shown(f'{scheme}://…')} contains credentials in its option {shown(name)}; remove "
                f"them from the URL, and {_credentials_remedy(scheme)}"
            )


def _credentials_remedy(scheme: str) -> str:
    """Return the remedy for credentials in a URL: where to provide them instead."""
    if scheme == "s3":
        return "set them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or in ~/.aws/credentials"
    return "provide them as that service expects: in environment variables or its credentials file"


def check_endpoint(url: str) -> None:
    """Reject an ``s3://`` URL whose endpoint is not HOST or HOST:PORT, or whose scheme is not http or https.

    pyarrow would retry such an endpoint for a minute before failing.

    Raises:
        ConfigError: The endpoint or the scheme is invalid.
    """
    if not url.startswith("s3://"):
        return
    options = dict(parse_qsl(url.partition("?")[2], keep_blank_values=True))
    endpoint, scheme = options.get("endpoint_override"), options.get("scheme", "https")
    found = None if endpoint is None else _HOST_AND_PORT.fullmatch(endpoint)
    if endpoint is not None and (found is None or int(found["port"] or 1) not in range(1, 65536)):
        raise ConfigError(
            f"storage.path: endpoint_override={shown(endpoint)} given in {shown(url)}; accepted: HOST or HOST:PORT, "
            "for example s3://bucket/runs?endpoint_override=127.0.0.1:9000&scheme=http"
        )
    if scheme not in ("http", "https"):
        raise ConfigError(
            f"storage.path: scheme={shown(scheme)} given in {shown(url)}; accepted: scheme=http or scheme=https"
        )


def open_filesystem(url: str) -> tuple[FileSystem, str]:
    """Return the file system of a URL or path, and the path within it.

    Raises:
        ConfigError: The scheme is unknown, the URL is malformed or contains credentials, or the package that
            supports the scheme is not installed.
    """
    import pyarrow
    from pyarrow import fs

    directory = local_path(url)
    if directory is not None:
        return fs.LocalFileSystem(), str(directory)
    refuse_userinfo("storage.path", url)
    check_endpoint(url)
    try:
        filesystem, root = fs.FileSystem.from_uri(url)
    except (pyarrow.ArrowInvalid, UnicodeEncodeError) as error:
        if "Unrecognized filesystem type" not in str(error):
            raise ConfigError(
                f"storage.path: {shown(url)} is not a valid URL ({_reason(error)}); correct it"
            ) from None
    except OSError as error:
        raise ConfigError(
            f"storage.path: {shown(url)} cannot be opened ({_reason(error)}); correct it, or choose another storage"
        ) from None
    else:
        if not root.strip("/"):
            raise ConfigError(
                f"storage.path: {shown(url)} has no bucket; add one, for example s3://bucket/runs"
            )
        return filesystem, root.rstrip("/")
    return _open_with_fsspec(url)


def _open_with_fsspec(url: str) -> tuple[FileSystem, str]:
    import fsspec
    from pyarrow import fs

    try:
        filesystem, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError, OSError) as error:
        raise ConfigError(
            f"storage.path: {shown(url)}: {_reason(error)}; "
            "use a directory, s3:// or gs://, or install the fsspec package for that scheme"
        ) from None
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), str(root).rstrip("/")


def _reason(error: Exception) -> str:
    """Return a library's complaint about a URL as one short line."""
    text = first_line(error).replace("\0", "")
    return text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON - 1]}…"
