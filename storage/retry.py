"""Storage that does not answer: tried again with growing pauses for a stated time, then one clear error."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from ..errors import StorageError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 10.0
# What another try cannot change: the answer is an answer.
_FINAL = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)


def retrying(operation: Callable[[], Result], what: str, retry_s: float) -> Result:
    """Do ``operation``; on an OSError (unreachable, denied, full) do it again for ``retry_s`` seconds.

    Args:
        operation: May be done several times.
        what: Names the place, for the error.
        retry_s: How long; 0 tries once.

    Raises:
        StorageError: It failed all that time; with the last reason.
        FileNotFoundError: And its like, at once: nothing stands there.
    """
    deadline, pause = time.monotonic() + retry_s, _FIRST_PAUSE_S
    while True:
        try:
            return operation()
        except _FINAL:
            raise
        except OSError as error:
            reason = " ".join(str(error).split())
            if time.monotonic() + pause > deadline:
                tried = f" (tried for {retry_s:g} s)" if retry_s else ""
                raise StorageError(
                    f"storage {what}: {reason}{tried}; repair it; a run goes on with `distiltune resume RUN`"
                ) from error
            logger.warning("storage %s: %s; trying again", what, reason)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
