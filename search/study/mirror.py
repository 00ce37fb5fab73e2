"""The Optuna journal of a search: a copy for the user and for optuna-dashboard, which the search never reads."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence

from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from ...storage.store import Store
from ..config import Objective
from ..parameters import Parameter
from ..trial_record import TrialRecord
from .frozen_trial import frozen_trial, reached_values
from .journal import study_lines, trial_line, trials_in

logger = logging.getLogger(__name__)

_UPLOAD_PERIOD_S = 10.0
_LOCK_PATIENCE_S = 3  # an older lock was left behind by a killed process


class StudyMirror:
    """Keeps an Optuna journal file in a store up to date with the trials that have ended.

    The same trials give the same file, byte for byte, whether they were added one by one or all at once, so an
    optuna-dashboard that has read the first half can continue with the second. Trials are in the order in which they
    ended, and of two with the same ``trial_id`` the later one is kept. A resumed search continues the existing journal;
    only ``rewrite`` removes trials.

    In a directory, lines are appended to the file. In other stores, a thread uploads the whole file at most every ten
    seconds. An unavailable store only delays this. Cannot be pickled.

    Args:
        store: Store of the journal.
        key: Key of the journal file.
        name: Name of the study.
        space: The searched arguments, by name.
        objectives: The objectives of the study.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        name: str,
        space: Mapping[str, Parameter],
        objectives: Sequence[Objective],
    ) -> None:
        self._store = store
        self._key = key
        self._space = dict(space)
        self._objectives = list(objectives)
        self._directions = [each.direction for each in objectives]
        self._name = name
        self._head = study_lines(name, self._directions, [each.metric for each in objectives])
        self._lines: dict[str, bytes] = {}
        self._is_read = False  # whether the lines include those of the existing file
        self._num_changes = 0
        self._num_sent = 0  # changes that are in the store
        self._num_bytes: int | None = None  # size of our file in a directory; None: write the whole file
        self._changing = threading.Lock()
        self._sending = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def rewrite(self, trials: Iterable[TrialRecord]) -> None:
        """Replace the journal, atomically, with one of exactly these trials.

        Raises:
            StorageError: The store does not respond to any retry.
        """
        ordered = sorted(trials, key=_by_end)
        lines = {trial.trial_id: self._line(trial) for trial in ordered}
        with self._changing:
            self._lines, self._is_read = lines, True
            self._num_changes += 1
        self._send_whole(self._store)

    def append(self, trial: TrialRecord) -> None:
        """Add a trial that has ended; if it cannot be written now, it is written with the next one."""
        line = self._line(trial)
        with self._changing:
            known = self._lines.get(trial.trial_id)
            if known != line:
                self._lines[trial.trial_id] = line
                self._num_changes += 1
        if self._store.directory is not None:
            can_append = known is None and self._num_sent == self._num_changes - 1
            self._attempt(line if can_append else None)
        elif self._thread is None:
            self._thread = threading.Thread(target=self._upload_often, name="study-mirror", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write the pending trials."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._attempt()

    def _line(self, trial: TrialRecord) -> bytes:
        frozen = frozen_trial(trial, self._space, reached_values(trial, self._objectives))
        return trial_line(frozen, self._directions)

    def _upload_often(self) -> None:
        while not self._ended.wait(_UPLOAD_PERIOD_S):
            self._attempt()

    def _attempt(self, line: bytes | None = None) -> None:
        """Write pending changes: only ``line`` if it is given, else the whole file; a failure is logged."""
        if self._num_sent == self._num_changes:
            return
        try:
            if line is None or not self._is_in_place:
                self._send_whole(self._store.once)  # no retries: a search must not wait for its mirror
            else:
                self._append_in_place(line)
        except Exception as error:  # the file system and the lock raise various errors
            self._num_bytes = None  # a part of the line may have been written
            logger.warning("the Optuna journal is delayed: %s", error)

    def _send_whole(self, store: Store) -> None:
        with self._sending:
            if not self._is_read:
                self._read_former(store)
            with self._changing:
                content = self._head + b"".join(self._lines.values())
                num_changes = self._num_changes
            store.write(self._key, content)
            self._num_bytes, self._num_sent = len(content), num_changes

    def _read_former(self, store: Store) -> None:
        """Take over the trials of the existing journal, which a resumed search does not add again."""
        found = trials_in(store.read(self._key) or b"", self._name, self._directions)
        named = {trial.user_attrs["trial_id"]: trial for trial in found if "trial_id" in trial.user_attrs}
        lines = {trial_id: trial_line(trial, self._directions) for trial_id, trial in named.items()}
        with self._changing:
            self._lines, self._is_read = {**lines, **self._lines}, True

    @property
    def _is_in_place(self) -> bool:
        if self._num_bytes is None or self._store.directory is None:
            return False
        path = self._store.directory / self._key
        # A dashboard may have added notes, but a file that became shorter must be written again.
        return path.is_file() and path.stat().st_size >= self._num_bytes

    def _append_in_place(self, line: bytes) -> None:
        assert self._store.directory is not None and self._num_bytes is not None
        path = str(self._store.directory / self._key)
        lock = JournalFileOpenLock(path, grace_period=_LOCK_PATIENCE_S)
        JournalFileBackend(path, lock_obj=lock).append_logs([json.loads(line)])
        self._num_bytes += len(line)
        self._num_sent = self._num_changes


def _by_end(trial: TrialRecord) -> tuple[bool, float, int]:
    return trial.ended is None, trial.ended or 0.0, trial.number
