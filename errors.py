"""Every exception that distiltune raises on purpose, in one tree.

Catching the root, ``DistiltuneError``, catches all of them. The command line prints each as one line on stderr, and
exits with the status ``exit_status``.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

_MOST_READ = 4096  # characters of a value that a message uses

_MOST_LISTED = 20  # faults in one message

# A secret may contain a slash, as S3 secrets do; the part after a port is a path, which may contain an @.
_USERINFO = re.compile(
    r"(?:://|(?<=\bs3):/|(?<=\bgs):/|(?<=http):/|(?<=https):/)(?:[^\s/?#]*@|[^\s/@:]{0,256}:(?!\d{1,5}/)[^\s@]{1,1024}@)"
)


class DistiltuneError(Exception):
    """Base class of all errors of distiltune."""

    exit_status = 1


class InputError(DistiltuneError, ValueError):
    """An input of the user cannot be used; the message names it and the remedy."""

    exit_status = 2


class ConfigError(InputError):
    """The job's specification has a fault; all faults of one file are listed together."""


class DataError(InputError):
    """A dataset cannot be used; the message names file, row and remedy."""


class ModelError(InputError):
    """A teacher or student checkpoint cannot be used with this job."""


class ArtifactError(InputError):
    """An artifact is missing, incomplete, or does not match its manifest."""


class RunNotFoundError(InputError):
    """The storage has no run of that name."""


class RunFailedError(DistiltuneError):
    """A run failed in one of its stages; what was completed before is kept."""


class StorageError(RunFailedError):
    """The storage cannot be reached, denies access, is full, or returns different content than was written."""


class PermanentStorageError(StorageError):
    """The storage failed in a way that a retry cannot fix: no permission, no space, no such bucket."""


class DamagedRecordError(PermanentStorageError):
    """A record in the storage is damaged or missing; the message names its file."""


class RunInterruptedError(DistiltuneError):
    """A run was interrupted with Ctrl-C or SIGTERM; it can be resumed."""

    exit_status = 130


class HubError(DistiltuneError):
    """A model hub cannot be reached, denies access, or rejects what is sent to it."""


class ExportError(RunFailedError):
    """A variant could not be created, or differs from its original by more than the tolerance."""


def listed(faults: list[str]) -> str:
    """Join faults into one line, numbered if there are several; at most the first 20 are listed."""
    if len(faults) == 1:
        return faults[0]
    first = "; ".join(f"({n}) {fault}" for n, fault in enumerate(faults[:_MOST_LISTED], 1))
    rest = len(faults) - _MOST_LISTED
    return f"{len(faults):,} faults: {first}{f'; and {rest:,} more' if rest > 0 else ''}"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message without secrets in URLs, or its type's name if it is empty."""
    line = next(iter(str(error).strip().splitlines()), "")
    return without_userinfo(line) or type(error).__name__


def shown(value: object, length: int = 60) -> str:
    """Format a value for a message: quoted, on one line, at most ``length`` characters, without secrets in URLs."""
    try:
        text = repr(value[:_MOST_READ] if isinstance(value, str | bytes) else value)
    except (ValueError, RecursionError):  # an int of thousands of digits; deeply nested lists
        text = f"<{type(value).__name__}>"
    return cut(without_userinfo(text[:_MOST_READ]), length)


def cut(text: str, length: int) -> str:
    """Truncate a text to ``length`` characters, for a message."""
    return text if len(text) <= length else text[: length - 1] + "…"


def without_userinfo(text: str) -> str:
    """Remove ``user:secret@`` from each URL in a text."""
    return _USERINFO.sub("://", text) if "@" in text else text


def user_path(name: str | Path, parameter: str, kind: type[InputError] = InputError) -> Path:
    """Return a path given by the user, with ``~`` and ``~user`` expanded; it need not exist.

    Args:
        name: The path as given.
        parameter: Full name of the parameter that holds it, for the message.
        kind: Class of the error.

    Raises:
        InputError: Of class ``kind``: the path is empty, is in the home of a user who does not exist, is not a valid
            path, or is too long.
    """
    given = f"{parameter}: {shown(str(name))} given"
    if not str(name).strip():
        raise kind(f"{given}, which is empty; specify a path")
    path = Path(name)
    try:
        path = path.expanduser()
        os.lstat(path)
    except RuntimeError:
        raise kind(f"{given}, but there is no such home directory; give the full path") from None
    except ValueError:
        raise kind(
            f"{given}, which contains a character that is not allowed in a path; correct the path"
        ) from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise kind(f"{given}, which is too long for a path; shorten it") from None
    return path
