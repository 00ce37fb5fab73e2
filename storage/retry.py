"""Retry storage operations with growing pauses for a limited time, then raise one clear error."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from ..errors import DistiltuneError, PermanentStorageError, StorageError, without_userinfo

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 10.0

_RESUME = "resume a run with `distiltune resume RUN`"
_PERMISSION = "grant this user access (chmod, chown), or choose another storage with --storage"
_SPACE = f"free some space; {_RESUME}"
_NAME = "use a shorter name or path"
_PLACE = "check what is at that path, or choose another storage with --storage"
# Errors that a retry cannot fix, and their remedies.
_REMEDIES_BY_ERRNO = {
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: "choose a writable storage with --storage",
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: _SPACE,
    errno.ENAMETOOLONG: _NAME,
    errno.ENOTDIR: _PLACE,
    errno.EISDIR: _PLACE,
    errno.EEXIST: _PLACE,
    errno.ELOOP: _PLACE,
    errno.EINVAL: _PLACE,
}
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)
_LITTLE_SPACE = 16 * 2**20  # bytes
_CREDENTIALS = "use credentials of an account that has access: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_REGION = "specify the bucket's region, as in s3://BUCKET?region=REGION"
# The same for object stores, as worded by pyarrow; responses to HEAD requests only have a status.
_REMEDIES_BY_WORDING = {
    "NO_SUCH_BUCKET": "create the bucket, or correct its name",
    "Unable to parse ExceptionName: InvalidBucketName": "correct the bucket's name",
    "Unable to parse ExceptionName: KeyTooLong": _NAME,
    "Unable to parse ExceptionName: ExpiredToken": "renew the credentials (AWS_SESSION_TOKEN)",
    "Unable to parse ExceptionName: AuthorizationHeaderMalformed": _REGION,
    "Unable to parse ExceptionName: QuotaExceeded": _SPACE,
    "Unable to parse ExceptionName: XMinioStorageFull": _SPACE,
    "HTTP status 301": _REGION,
    "HTTP status 403": _CREDENTIALS,
    "ACCESS_DENIED": _CREDENTIALS,
    "INVALID_ACCESS_KEY_ID": _CREDENTIALS,
    "INVALID_CLIENT_TOKEN_ID": _CREDENTIALS,
    "MISSING_AUTHENTICATION_TOKEN": _CREDENTIALS,
    "SIGNATURE_DOES_NOT_MATCH": _CREDENTIALS,
    "UNRECOGNIZED_CLIENT": _CREDENTIALS,
}


def retrying(operation: Callable[[], Result], what: str, retry_s: float) -> Result:
    """Run ``operation``, and retry it for ``retry_s`` seconds while the storage is unavailable.

    Args:
        operation: Function that can be called several times.
        what: Name of the place, for the error.
        retry_s: Seconds to retry for; 0 tries once.

    Raises:
        PermanentStorageError: At once, when a retry cannot help (permission, full, no such bucket, …).
        StorageError: The operation failed all that time; with the last reason.
        FileNotFoundError: At once, when nothing exists there.
    """
    deadline, pause = time.monotonic() + retry_s, _FIRST_PAUSE_S
    while True:
        try:
            return operation()
        except FileNotFoundError:
            raise
        except OSError as error:
            if remedy_for(error) is not None:
                raise permanent(error, what) from error
            reason = reason_of(error)
            if time.monotonic() + pause > deadline:
                tried = f" (retried for {retry_s:g} s)" if retry_s else ""
                raise StorageError(f"storage {what}: {reason}{tried}; fix the cause; {_RESUME}") from error
            logger.warning("storage %s: %s; retrying", what, reason)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)


def permanent(error: OSError, what: str) -> PermanentStorageError:
    """Return the error for a failure that a retry cannot fix, in one line: place, reason, remedy."""
    # The first file name of a failed copy is its source.
    place = error.filename if isinstance(error.filename, str) and error.filename2 is None else what
    remedy = remedy_for(error) or f"fix the cause; {_RESUME}"
    return PermanentStorageError(f"storage {_short(place)}: {_reason_in_short(error)}; {remedy}")


def remedy_for(error: OSError) -> str | None:
    """Return the remedy for an error that a retry cannot fix; None where a retry may succeed."""
    if error.errno is not None:
        return _REMEDIES_BY_ERRNO.get(error.errno)
    text = str(error)
    return next((remedy for wording, remedy in _REMEDIES_BY_WORDING.items() if wording in text), None)


def refusal_of(error: BaseException, store: str) -> PermanentStorageError | None:
    """Return a one-line error if a disk is full or a file is not writable; None for any other error.

    Libraries raise their own classes for a full disk, whose text contains the system's message.

    Args:
        error: An exception that was raised on this machine.
        store: The run store's location, which is checked besides the temporary directory.
    """
    if isinstance(error, DistiltuneError) or not isinstance(error, Exception):
        return None
    if isinstance(error, OSError) and error.errno in _NOT_WRITABLE and isinstance(error.filename, str):
        return permanent(error, error.filename)
    seen: BaseException | None = error
    while seen is not None:
        code = seen.errno if isinstance(seen, OSError) else None
        named = seen.filename if isinstance(seen, OSError) and isinstance(seen.filename, str) else None
        if code in _NO_SPACE or any(os.strerror(each) in str(seen) for each in _NO_SPACE):
            return permanent(OSError(code or errno.ENOSPC, ""), _full_place(named, store))
        seen = seen.__cause__ or seen.__context__
    return None


def _full_place(named: str | None, store: str) -> str:
    """Return the path that was written, else the directory that is out of space."""
    places = [store, tempfile.gettempdir()]
    for place in places if named is None else []:
        with suppress(OSError):
            if shutil.disk_usage(place).free < _LITTLE_SPACE:
                return place
    return named or " or ".join(places)


def reason_of(error: BaseException) -> str:
    """Return an error's message in one line, without secrets of URLs."""
    return without_userinfo(" ".join(str(error).split())) or type(error).__name__


def _reason_in_short(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno is not None else reason_of(error)


def _short(place: str, most: int = 300) -> str:
    return place if len(place) <= most else f"{place[: most - 1]}…"
