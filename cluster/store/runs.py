"""The run store: keys, records and state of a run, and the list of runs in a storage."""

from __future__ import annotations

import datetime
import logging
import re
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ...errors import (
    DamagedRecordError,
    InputError,
    PermanentStorageError,
    RunNotFoundError,
    shown,
)
from ...storage.store import RETRY_S, Store
from .checks import check_directory, check_writable
from .lease import Lease, is_held, still_beats
from .records import damaged, read_record

if TYPE_CHECKING:
    from ..specification.config import JobConfig

logger = logging.getLogger(__name__)

STAGES = (
    "data",
    "teacher",
    "logits",
    "student",
    "search",
    "export",
    "benchmark",
    "gate",
    "report",
    "artifact",
)
LATEST = "latest"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
TEACHERS, LOGITS, LATENCIES = "cache/teachers", "cache/logits", "cache/latencies"
PIECES = "cache/pieces"
END_SEARCH = "--set search.budget.wall_time_s=1"
"""Option of ``resume`` that ends an unfinished search with the trials that are done."""
READERS = 16  # threads; reading a run takes several requests to the store
_START_WITHIN_S = 900.0  # Ray gives up on a job that has not started by then


class Storage:
    """A store that holds runs and the caches that they share.

    Args:
        url: Directory or URL.
        retry_s: Seconds for which an operation is retried.

    Raises:
        ConfigError: The location cannot be a storage.
    """

    def __init__(self, url: str, retry_s: float = RETRY_S) -> None:
        self.store = Store(url, retry_s)
        if self.store.directory is not None:
            check_directory(self.store.directory)

    def create(self, run_id: str) -> Run:
        """Return the run with an id, existing or not, after checking that the storage is writable.

        Raises:
            ConfigError: The storage cannot be written.
        """
        run = Run(self.store, run_id)
        check_writable(self.store, run.key())
        return run

    def open(self, run_id: str) -> Run:
        """Return the existing run with an id; ``latest`` is the newest run that is not damaged.

        Raises:
            RunNotFoundError: There is no such run; the message lists the newest runs.
            DamagedRecordError: The record with the run's start time is damaged.
        """
        run = Run(self.store, run_id)
        if run_id != LATEST and _ID.fullmatch(run_id) and run.began:
            return run
        runs, faults = self._dated()
        if run_id == LATEST:
            for newest in runs:
                try:
                    newest.check()
                except PermanentStorageError as error:
                    faults[newest] = error
                    continue
                _warn_of(faults)
                return newest
            _warn_of(faults)
        known = ", ".join(found.id for found in runs[:3]) or "none"
        raise RunNotFoundError(
            f"no run {shown(run_id)} in {self.store} (newest: {known}); "
            "list them with `distiltune runs`, or specify the storage with --storage"
        )

    def candidates(self) -> list[Run]:
        """Return everything in the storage whose name is a valid run id."""
        return [Run(self.store, name) for name in self.store.names("runs") if _ID.fullmatch(name)]

    def list(self) -> list[Run]:
        """Return every run with a start time, newest first; damaged runs are skipped."""
        return self._dated()[0]

    def _dated(self) -> tuple[list[Run], dict[Run, PermanentStorageError]]:
        """Return the runs with a start time, newest first, and the errors of damaged runs."""
        found, faults, dated = self.candidates(), {}, {}
        with ThreadPoolExecutor(READERS) as pool:
            for run, began in zip(found, pool.map(_began, found), strict=True):
                if isinstance(began, PermanentStorageError):
                    faults[run] = began
                elif began:
                    dated[run] = began
        return sorted(dated, key=lambda run: (dated[run], run.id), reverse=True), faults


def _began(run: Run) -> str | PermanentStorageError:
    try:
        return run.began
    except PermanentStorageError as error:
        return error


def _warn_of(faults: dict[Run, PermanentStorageError]) -> None:
    for run, error in faults.items():
        logger.warning("latest: skipping run %s: %s", run.id, error)


class Run:
    """One run: its keys, records and state."""

    def __init__(self, store: Store, run_id: str) -> None:
        self.store = store
        self.id = run_id
        self.search = self.key("search")
        self.tensorboard = self.key("tensorboard")
        self.student = self.key("student")
        self.journal = self.key("study/optuna.journal")
        self.best = self.key("best")
        self.artifact = self.key("artifact")
        self.report = self.key("report")
        self.log = self.key("logs/run")
        self.trial_logs = self.key("logs/trials")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and (other.store, other.id) == (self.store, self.id)

    def __hash__(self) -> int:
        return hash((self.store, self.id))

    def key(self, name: str = "") -> str:
        """Return the key of an item of this run, or of the run itself."""
        return f"runs/{self.id}/{name}" if name else f"runs/{self.id}"

    def variant(self, name: str) -> str:
        """Return the key of an exported variant's folder."""
        return self.key(f"variants/{name}")

    def stage_log(self, stage: str, part: str = "") -> str:
        """Return the key of a stage's log; each of several parallel tasks has its own, named by ``part``."""
        return self.key("/".join(filter(None, ["logs/stages", stage, part])))

    def progress(self, stage: str) -> str:
        """Return the name of a stage's progress record, which has ``text`` and, for the search, its counts."""
        return f"stages/{stage}.progress.json"

    def stage_record(self, stage: str) -> dict[str, Any]:
        """Return a stage's record with ``state``, ``seconds`` and ``result``, empty before the stage began."""
        return self.read(f"stages/{stage}.json") or {}

    def read(self, name: str) -> dict[str, Any] | None:
        """Return the record with a name, or None if there is none.

        Raises:
            DamagedRecordError: The record is damaged.
        """
        return read_record(self.store, self.key(), name)

    def write(self, name: str, record: dict[str, Any]) -> None:
        """Write a record atomically."""
        self.store.write_json(self.key(name), record)

    def specification(self) -> JobConfig:
        """Return the specification that the run began with.

        Raises:
            InputError: The run has no specification.
            DamagedRecordError: The specification's record is damaged.
        """
        from ..specification.config import JobConfig

        recorded = self.read("job.json")
        if recorded is None:
            raise InputError(
                f"run {self.id} has no specification; submit it: distiltune submit CONFIG --run-id {self.id}"
            )
        try:
            return JobConfig.model_validate(recorded)
        except ValidationError as error:
            raise damaged(self.store.location(self.key("job.json")), error) from None

    @property
    def exists(self) -> bool:
        """Whether the run was begun or submitted."""
        return self.read("run.json") is not None or self.read("submission.json") is not None

    @property
    def created(self) -> str:
        """Time at which the run was begun or submitted, in ISO 8601; empty before that."""
        record = self.read("run.json") or self.read("submission.json") or {}
        return record.get("created", "")

    @property
    def began(self) -> str:
        """Value of ``created``; unlike it, treats a run whose record was lost as damaged, not as never begun.

        Raises:
            DamagedRecordError: The record of the run is damaged, or is missing although there are stages.
        """
        created = self.created
        if not created and any(name.endswith(".json") for name in self.store.names(self.key("stages"))):
            raise DamagedRecordError(
                f"storage {self.store.location(self.key('run.json'))}: is missing, but the run has stages; restore "
                f"it from a backup, or resume with `distiltune run CONFIG --run-id {self.id}`, which writes it"
            )
        return created

    def check(self) -> None:
        """Read the records that a list of runs needs, to find damaged ones.

        Raises:
            DamagedRecordError: One of them is damaged.
        """
        _ = self.state
        for stage in ("search", "gate"):
            self.stage_record(stage)
        self.read(self.progress("search"))

    @property
    def state(self) -> str:
        """State of the run: submitted, running, finished, failed, stopped or interrupted.

        ``submitted``: a job was sent and has not begun. ``interrupted``: the run began, and no process runs it any
        more, although no end was recorded.
        """
        run, submission = self.read("run.json"), self.read("submission.json")
        if submission is not None and submission.get("pending"):
            if self._is_held:  # its job has started and is about to record that
                return "running"
            return "submitted" if seconds_since(submission["created"]) < _START_WITHIN_S else "interrupted"
        state = (run or {}).get("state", "interrupted")
        if state != "running":
            return state
        return "running" if self._is_held else "interrupted"

    @property
    def _is_held(self) -> bool:
        return is_held(self.store, self.key())

    @property
    def still_beats(self) -> bool:
        """Whether a process still runs a seemingly interrupted run; may wait some seconds for a heartbeat."""
        return still_beats(self.store, self.key())

    @contextmanager
    def held(self) -> Iterator[Lease]:
        """Hold the run for writing, with a heartbeat; a request to stop interrupts the main thread.

        Raises:
            InputError: Another process holds the run.
            DamagedRecordError: The record of the current lease is damaged.
        """
        lease = Lease(self.store, self.key(), lambda: "stop" if self.is_to_stop else None)
        try:
            lease.acquire()
        except InputError as error:
            raise InputError(f"run {self.id}: {error}; watch it with `distiltune status {self.id}`") from None
        try:
            yield lease
        finally:
            lease.release()

    @property
    def is_to_stop(self) -> bool:
        """Whether a stop of the run was requested."""
        return self.store.read(self.key("stop.json")) is not None

    def request_stop(self) -> None:
        """Request a stop, which takes effect at the next heartbeat."""
        self.write("stop.json", {"at": now()})

    def clear_stop(self) -> None:
        """Withdraw a request to stop."""
        self.store.delete(self.key("stop.json"))


def name_run(name: str, run_id: str | None) -> str:
    """Return the given run id, or a new one that begins with ``name``.

    Raises:
        InputError: The id has characters that a directory name should not have.
    """
    if run_id is None:
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        slug = re.sub(r"[^A-Za-z0-9]+", "-", name)[:40].strip("-") or "job"
        run_id = f"{slug}-{stamp}-{secrets.token_hex(2)}"
    if not _ID.fullmatch(run_id) or run_id == LATEST:
        raise InputError(
            f"--run-id: {shown(run_id)} is not a valid id of a run; use up to 80 letters, digits, '.', '_' and '-' "
            f"(and not {LATEST!r})"
        )
    return run_id


def command(name: str, run: Run, options: str = "") -> str:
    """Return a command line for a run, with ``--storage`` unless the storage is the default one."""
    from ..specification.resources import StorageConfig

    storage = "" if run.store == Store(StorageConfig().path) else f"--storage {shlex.quote(run.store.url)}"
    return " ".join(filter(None, [own_name(), name, run.id, options, storage]))


def own_name() -> str:
    """Return the name of this program, or its path if it is not on PATH, quoted for a shell."""
    own = Path(sys.argv[0])
    if own.name != "distiltune" or shutil.which(own.name) or not own.is_file():
        return "distiltune"
    path = own.absolute()
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def seconds_since(moment: str) -> float:
    """Return the seconds from a record's ISO 8601 time until now."""
    return max(0.0, round(time.time() - epoch_of(moment), 1))


def epoch_of(moment: str) -> float:
    """Convert a record's ISO 8601 time to seconds since 1970."""
    return datetime.datetime.fromisoformat(moment).timestamp()


def now() -> str:
    """Return the current time in ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
