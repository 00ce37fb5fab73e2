"""Claims and the lease on a run: records that their holders renew by a heartbeat, so that dead ones are detected."""

from __future__ import annotations

import logging
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from ...errors import InputError, StorageError
from ...storage.store import Store
from .records import read_record

logger = logging.getLogger(__name__)

_NAME = "lease.json"
BEAT_S = 5.0
STALE_AFTER_S = 30.0
_SETTLE_S = 1.0  # longer than the delay between two simultaneous writers


class Claim:
    """A record in the store that one process holds and renews by a heartbeat, visible to every machine with access.

    On the same machine a claim expires with its process. On other machines it expires if there was no heartbeat
    for ``STALE_AFTER_S`` seconds.

    Args:
        store: The store.
        folder: Key of the record's folder.
        name: Name of the record, which ends in ``lease.json``.
        lock: Key of the file that is locked while the holder changes, if the store is a directory.
        more: Additional values of the record.
        on_beat: Called at every beat; may return a reason to interrupt the holder.
    """

    def __init__(
        self,
        store: Store,
        folder: str,
        name: str,
        *,
        lock: str,
        more: Mapping[str, Any] | None = None,
        on_beat: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._store = store.once
        self._patient = store
        self._folder, self._name = folder, name
        self._key = f"{folder}/{name}"
        self._lock = lock
        self._more = dict(more or {})
        self._on_beat = on_beat
        self._owner = secrets.token_hex(8)
        self._beats = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_released, name="heartbeat", daemon=True)
        self.interruption: str | None = None
        """Reason why the heartbeat ended early: ``lost`` to another process, or that of ``on_beat``."""

    def read(self) -> dict[str, Any] | None:
        """Return the record of the current holder; None if there is none.

        Raises:
            DamagedRecordError: The record is damaged.
        """
        return read_record(self._patient, self._folder, self._name)

    def take(self, held: dict[str, Any] | None) -> dict[str, Any] | None:
        """Write the claim in place of ``held``, which has expired, and start the heartbeat.

        Returns:
            None on success; else the record of the process that was faster, empty if it has ended already.
        """
        with self._locked():
            now = self.read()
            if now is not None and now != held:  # another process was faster
                return now
            began = time.monotonic()
            self._write(self._patient)
        if self._store.directory is None:
            # Such a store has no locks: the last of several simultaneous writers gets the claim, so wait for all.
            time.sleep(max(_SETTLE_S, 2 * (time.monotonic() - began)))
        now = self.read()
        if now is None or now["owner"] != self._owner:
            return now or {}
        self._thread.start()
        return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold a file lock if the store is a directory."""
        if self._store.directory is None:
            yield
            return
        lock = self._store.directory / self._lock
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            yield

    def release(self) -> None:
        """Stop the heartbeat and delete the record."""
        self._ended.set()
        self._thread.join()
        if self.interruption != "lost":
            try:
                self._store.delete(self._key)
            except StorageError:
                return  # the claim will expire

    def _beat_until_released(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                held = read_record(self._store, self._folder, self._name)
                if held is None or held["owner"] != self._owner:  # taken over, perhaps even released since
                    return self._interrupt("lost")
                self._write(self._store)
                reason = self._on_beat()
            except Exception as error:  # the next beat retries
                logger.warning("heartbeat: %s", error)
                continue
            if reason is not None:
                return self._interrupt(reason)
        return None

    def _interrupt(self, reason: str) -> None:
        self.interruption = reason

    def _write(self, store: Store) -> None:
        self._beats += 1
        own = psutil.Process()
        record = {
            "owner": self._owner,
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": own.pid,
            "process_started": own.create_time(),
            "beats": self._beats,
            "at": time.time(),
            **self._more,
        }
        store.write_json(self._key, record)


class Lease(Claim):
    """Exclusive right to write a run; a process that loses it is interrupted.

    Before a process takes it over from another machine, it waits for two more beats, so that differences between the
    machines' clocks are harmless.

    Args:
        store: The run store.
        run_key: The run's key.
        on_beat: Called at every beat; if it returns a reason (``stop``), the main thread is interrupted.
    """

    def __init__(self, store: Store, run_key: str, on_beat: Callable[[], str | None] = lambda: None) -> None:
        super().__init__(store, run_key, _NAME, lock=f"{run_key}/{_NAME}.lock", on_beat=on_beat)

    def acquire(self) -> None:
        """Acquire the lease and start the heartbeat.

        Raises:
            InputError: Another process holds the lease.
            DamagedRecordError: The record of the current lease is damaged.
        """
        _receive_interrupts()
        held = self.read()
        if held is not None and still_beats(self._patient, self._folder, held):
            raise InputError(_held_message(held))
        other = self.take(held)
        if other is not None:
            raise InputError(_held_message(other))

    def _interrupt(self, reason: str) -> None:
        super()._interrupt(reason)
        # Signal the main thread itself: a signal to this thread would not wake it from a sleep.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        while reason != "lost" and not self._ended.wait(BEAT_S):
            try:
                self._write(self._store)
            except Exception as error:
                logger.warning("heartbeat: %s", error)


def _receive_interrupts() -> None:
    """Restore the SIGINT handler, since processes that a script starts in the background ignore SIGINT."""
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    ):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def is_held(store: Store, run_key: str) -> bool:
    """Return whether a process holds the run, judging by its last heartbeat."""
    held = read_record(store, run_key, _NAME)
    return held is not None and _seems_alive(held)


def process_lives(held: dict[str, Any]) -> bool | None:
    """Return whether the process of a record is alive; None if it is on another machine."""
    if held.get("machine") != _machine():
        return None
    try:
        return abs(psutil.Process(held["pid"]).create_time() - held["process_started"]) < 1
    except psutil.Error:
        return False


def _seems_alive(held: dict[str, Any]) -> bool:
    lives = process_lives(held)
    return abs(time.time() - held["at"]) < STALE_AFTER_S if lives is None else lives


def still_beats(store: Store, run_key: str, held: dict[str, Any] | None = None) -> bool:
    """Return whether a process holds the run; unlike ``is_held``, wait for two beats rather than trust clocks."""
    held = held or read_record(store, run_key, _NAME)
    if held is None:
        return False
    if held.get("machine") == _machine() or _seems_alive(held):
        return _seems_alive(held)
    time.sleep(2 * BEAT_S + 1)
    now = read_record(store, run_key, _NAME)
    return now is not None and (now["owner"], now["beats"]) != (held["owner"], held["beats"])


def _held_message(held: dict[str, Any]) -> str:
    return f"another process is running it (pid {held.get('pid')} on {held.get('host')})"


def _machine() -> str:
    """Return an identifier that two processes share only if each can see the other's process id."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()}/{psutil.boot_time():.0f}"
