"""Write the files of each trial that Tune's ResultGrid reads."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ray.tune import Callback

from ...errors import StorageError
from ...storage.store import Store
from ..trial_record import name_of
from .progress import running_searches

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


class ResultFiles(Callback):
    """Write ``params.json`` and ``result.json`` of every trial, for Tune's ResultGrid, directly to the store.

    Tune's own logger writes them next to the snapshots, and Tune copies that whole folder again with each snapshot, so
    the bytes written would grow with the square of the number of trials. Each epoch has one line; a resumed trial
    reports its epochs again. While the storage is unavailable, the files are kept in memory. Tune pickles this
    callback, so the store is taken from the running search.
    """

    def __init__(self) -> None:
        self._lines: dict[str, dict[int, bytes]] = {}
        self._begun: dict[str, dict[str, Any]] = {}  # trials whose earlier lines have not been read yet
        self._waiting: dict[str, bytes] = {}
        self._changed: set[str] = set()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Write the trial's arguments; the earlier lines of a resumed trial are kept."""
        name = name_of(trial)
        if name not in self._lines:
            self._lines[name], self._begun[name] = {}, trial.config
        self._waiting[name] = json.dumps(trial.config, indent=2, sort_keys=True).encode()
        self._try()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Add the line of a report."""
        name = name_of(trial)
        self._lines.setdefault(name, {})[_epoch(result)] = json.dumps(result, default=str).encode()
        self._changed.add(name)
        self._try()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Free the trial's lines if they have been written."""
        if name_of(trial) not in self._changed:
            self._lines.pop(name_of(trial), None)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Write the pending files, with all retries of the storage."""
        for search in running_searches:
            self._send(search.store, search.experiment)

    def _try(self) -> None:
        with suppress(StorageError):
            for search in running_searches:  # without retries, since the event loop must not wait
                self._send(search.store.once, search.experiment)

    def _send(self, store: Store, experiment: str) -> None:
        for name, content in list(self._waiting.items()):
            store.write(f"{experiment}/{name}/params.json", content)
            del self._waiting[name]
        for name in list(self._changed):
            key = f"{experiment}/{name}/result.json"
            if name in self._begun:
                self._restore(name, store.read(key) or b"")
            lines = self._lines[name]
            store.write(key, b"".join(lines[epoch] + b"\n" for epoch in sorted(lines)))
            self._changed.discard(name)

    def _restore(self, name: str, content: bytes) -> None:
        """Merge the lines of earlier attempts, except those of a trial with other arguments."""
        config = json.loads(json.dumps(self._begun.pop(name)))
        for line in content.splitlines():
            with suppress(ValueError):  # a truncated line
                result = json.loads(line)
                if isinstance(result, dict) and result.get("config") == config and "epoch" in result:
                    self._lines[name].setdefault(result["epoch"], line)


def _epoch(result: dict[str, Any]) -> int:
    return result.get("epoch", sys.maxsize)  # a failure is the last line
