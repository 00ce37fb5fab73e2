"""Compute a cached result once: one process claims and computes it, and others wait for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...errors import DamagedRecordError
from ...progress import Progress, ReportProgress, ignore
from ...storage.store import Store
from . import lease
from .lease import Claim, process_lives

logger = logging.getLogger(__name__)

WORK = "cache/work"
"""Folder of the claims on results that are being computed; hidden files in it are locks."""
MOST_WAIT_S = 12 * 3600.0
"""Maximum time to wait for another process; after that, the waiting process computes the result itself."""
_POLL_S, _POLL_REMOTE_S = 0.2, 2.0


@contextmanager
def computed_once(
    store: Store, key: str, doing: str, *, run_id: str = "", report: ReportProgress = ignore
) -> Iterator[None]:
    """Claim a cached folder for the block that computes it; first wait while another process computes it.

    The block must look into the cache before it computes anything, since the folder may exist by then. If the other
    process fails or is killed, one of the waiting processes computes the folder. The content of a cached folder is
    determined by its key, so two processes that compute the same one only waste time.

    Args:
        store: The run store.
        key: Key of the folder.
        doing: The computation in words, for the status line: ``prepares the same teacher``.
        run_id: The run that computes it, for the status lines of other runs.
        report: Called when the process that is waited for changes.

    Raises:
        StorageError: The storage cannot be read or written.
    """
    claim = _claimed(store, key, doing, run_id, report)
    try:
        yield
    finally:
        if claim is not None:
            claim.release()


def _claimed(store: Store, key: str, doing: str, run_id: str, report: ReportProgress) -> Claim | None:
    """Return a claim to compute a folder; None if it exists, or the process that computes it takes too long."""
    name = f"{key.removeprefix('cache/').replace('/', '-')}.lease.json"
    claim = Claim(store, WORK, name, lock=f"{WORK}/.lock", more={"run_id": run_id})
    holder, began, reported = _Holder(), time.monotonic(), ""
    while not store.has_folder(key):
        held = _read(claim, store, f"{WORK}/{name}")
        if held is None or not holder.lives(held):
            held = claim.take(held)
            if held is None:
                return claim
        if time.monotonic() - began > MOST_WAIT_S:
            logger.warning("%s, which takes too long; computing it here as well", _waiting(held, doing))
            return None
        text = _waiting(held, doing)
        if text != reported:
            report(Progress(text))
            reported = text
        time.sleep(_POLL_S if store.directory is not None else _POLL_REMOTE_S)
    return None


def _read(claim: Claim, store: Store, key: str) -> dict[str, Any] | None:
    """Return the record of a claim; a damaged one is deleted, which costs at most a repeated computation."""
    try:
        return claim.read()
    except DamagedRecordError as error:
        logger.warning("%s; deleting it", str(error).partition(";")[0])
        store.delete(key)
        return None


def _waiting(held: dict[str, Any], doing: str) -> str:
    run = f"run {held['run_id']}" if held.get("run_id") else "another job"
    where = f" (pid {held['pid']} on {held['host']})" if held else ""
    return f"waiting for {run}{where}, which {doing}"


class _Holder:
    """Determines whether the holder of a claim is alive, by its process and by its beats since the first call.

    Clocks of different machines are not compared.
    """

    def __init__(self) -> None:
        self._beat: tuple[Any, Any] | None = None
        self._since = 0.0

    def lives(self, held: dict[str, Any]) -> bool:
        """Return whether the process of a record is alive, as far as this machine can tell."""
        if process_lives(held) is False:
            return False
        beat = (held.get("owner"), held.get("beats"))
        if beat != self._beat:
            self._beat, self._since = beat, time.monotonic()
        return time.monotonic() - self._since < lease.STALE_AFTER_S
