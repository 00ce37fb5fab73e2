"""Storage that does not answer: tried again with growing pauses for a stated time, then one clear error."""

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

_RESUME = "a run goes on with `distiltune resume RUN`"
_PERMISSION = "give this user the right to it (chmod, chown), or choose another storage with --storage"
_SPACE = f"free some space there; {_RESUME}"
_NAME = "give a shorter name or path"
_PLACE = "look at what stands there, or choose another storage with --storage"
# What another try cannot change, and the remedy.
_ERRNOS = {
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: "choose a storage that can be written with --storage",
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
_NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)
_LITTLE_SPACE = 16 * 2**20  # bytes
_CREDENTIALS = (
    "give the credentials of an account that may use it: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)
_REGION = "give the bucket's own region, as s3://BUCKET?region=REGION"
# The same of object stores, in pyarrow's words; the answers to HEAD requests have no more than a status.
_ANSWERS = {
    "NO_SUCH_BUCKET": "make the bucket, or correct its name",
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
    """Do ``operation``; where the storage is away do it again for ``retry_s`` seconds.

    Args:
        operation: May be done several times.
        what: Names the place, for the error.
        retry_s: How long; 0 tries once.

    Raises:
        PermanentStorageError: At once: another try cannot change it (permission, full, no such bucket, …).
        StorageError: It failed all that time; with the last reason.
        FileNotFoundError: At once: nothing stands there.
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
                tried = f" (tried for {retry_s:g} s)" if retry_s else ""
                raise StorageError(f"storage {what}: {reason}{tried}; repair it; {_RESUME}") from error
            logger.warning("storage %s: %s; trying again", what, reason)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)


def permanent(error: OSError, what: str) -> PermanentStorageError:
    """Return the error for what another try cannot change, in one line: place, reason, remedy."""
    # Of a copy that fails, what is named first is its source.
    place = error.filename if isinstance(error.filename, str) and error.filename2 is None else what
    remedy = remedy_for(error) or f"repair it; {_RESUME}"
    return PermanentStorageError(f"storage {_short(place)}: {_reason_in_short(error)}; {remedy}")


def remedy_for(error: OSError) -> str | None:
    """Return what a person can do about an error that another try cannot change; None where one may pass."""
    if error.errno is not None:
        return _ERRNOS.get(error.errno)
    text = str(error)
    return next((remedy for answer, remedy in _ANSWERS.items() if answer in text), None)


def refusal_of(error: BaseException, store: str) -> PermanentStorageError | None:
    """Return the error in one line where work failed since a disk is full or a file may not be written; else None.

    Libraries say so in classes of their own, whose text has the system's words.

    Args:
        error: What the work raised, on the machine where it did.
        store: The run store's location, which is looked at besides the temporary directory.
    """
    if isinstance(error, DistiltuneError) or not isinstance(error, Exception):
        return None
    if isinstance(error, OSError) and error.errno in _NO_RIGHT and isinstance(error.filename, str):
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
    """The path that was written, else which of the directories that are written to has no room."""
    places = [store, tempfile.gettempdir()]
    for place in places if named is None else []:
        with suppress(OSError):
            if shutil.disk_usage(place).free < _LITTLE_SPACE:
                return place
    return named or " or ".join(places)


def reason_of(error: BaseException) -> str:
    """Return what an error says, in one line without the secrets of URLs."""
    return without_userinfo(" ".join(str(error).split())) or type(error).__name__


def _reason_in_short(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno is not None else reason_of(error)


def _short(place: str, most: int = 300) -> str:
    return place if len(place) <= most else f"{place[: most - 1]}…"
