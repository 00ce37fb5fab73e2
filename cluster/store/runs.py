"""The run store: every key of a run, its records and state, and the runs of a storage."""

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
READERS = 16  # a look at a run is some requests to the store
_START_WITHIN_S = 900.0  # Ray gives up a job that has not started by then


class Storage:
    """A store that holds runs, and the caches that they share.

    Args:
        url: Directory or URL.
        retry_s: Seconds that an operation is tried again.

    Raises:
        ConfigError: It cannot be a storage.
    """

    def __init__(self, url: str, retry_s: float = RETRY_S) -> None:
        self.store = Store(url, retry_s)
        if self.store.directory is not None:
            check_directory(self.store.directory)

    def create(self, run_id: str) -> Run:
        """The run of that id, there or not yet, after a look whether the storage can be written.

        Raises:
            ConfigError: It cannot.
        """
        run = Run(self.store, run_id)
        check_writable(self.store, run.key())
        return run

    def open(self, run_id: str) -> Run:
        """The run of that id; ``latest`` is the newest that is not damaged.

        Raises:
            RunNotFoundError: There is none; the message lists the newest runs there are.
            DamagedRecordError: There is, and what says when it began is damaged.
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
            "list them with `distiltune runs`, or name their storage with --storage"
        )

    def candidates(self) -> list[Run]:
        """Everything that may be a run, by its name; what has another name is none."""
        return [Run(self.store, name) for name in self.store.names("runs") if _ID.fullmatch(name)]

    def list(self) -> list[Run]:
        """Every run that says when it began, newest first; damaged ones do not."""
        return self._dated()[0]

    def _dated(self) -> tuple[list[Run], dict[Run, PermanentStorageError]]:
        """The runs that say when they began, newest first, and why others do not."""
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
        logger.warning("latest: run %s is not looked at: %s", run.id, error)


class Run:
    """One run: every key of it is made here."""

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
        """The key of something of this run."""
        return f"runs/{self.id}/{name}" if name else f"runs/{self.id}"

    def variant(self, name: str) -> str:
        """The key of an exported variant's folder."""
        return self.key(f"variants/{name}")

    def stage_log(self, stage: str, part: str = "") -> str:
        """The key of what a stage's task logged; of several side by side each is a ``part``."""
        return self.key("/".join(filter(None, ["logs/stages", stage, part])))

    def progress(self, stage: str) -> str:
        """The name of the record of how far a stage is: ``text``, and for the search its counts."""
        return f"stages/{stage}.progress.json"

    def stage_record(self, stage: str) -> dict[str, Any]:
        """What is known of a stage: ``state``, ``seconds``, ``result``; empty before it began."""
        return self.read(f"stages/{stage}.json") or {}

    def read(self, name: str) -> dict[str, Any] | None:
        """A record by its name in the run, or None.

        Raises:
            DamagedRecordError: It is not what was written there.
        """
        return read_record(self.store, self.key(), name)

    def write(self, name: str, record: dict[str, Any]) -> None:
        """Write a record so that no reader sees half of it."""
        self.store.write_json(self.key(name), record)

    def specification(self) -> JobConfig:
        """What it began with.

        Raises:
            InputError: It has none.
            DamagedRecordError: It is none any more.
        """
        from ..specification.config import JobConfig

        held = self.read("job.json")
        if held is None:
            raise InputError(
                f"run {self.id} has no specification; submit it: distiltune submit CONFIG --run-id {self.id}"
            )
        try:
            return JobConfig.model_validate(held)
        except ValidationError as error:
            raise damaged(self.store.location(self.key("job.json")), error) from None

    @property
    def exists(self) -> bool:
        """Whether it was begun or submitted."""
        return self.read("run.json") is not None or self.read("submission.json") is not None

    @property
    def created(self) -> str:
        """When it was begun or submitted, in ISO 8601; empty before that."""
        record = self.read("run.json") or self.read("submission.json") or {}
        return record.get("created", "")

    @property
    def began(self) -> str:
        """``created``, where a run whose record was lost counts as damaged, and not as one that never began.

        Raises:
            DamagedRecordError: The record that says so is damaged, or is gone while there are stages.
        """
        created = self.created
        if not created and any(name.endswith(".json") for name in self.store.names(self.key("stages"))):
            raise DamagedRecordError(
                f"storage {self.store.location(self.key('run.json'))}: is not there, and the run has stages; put it "
                f"back from a backup, or go on with `distiltune run CONFIG --run-id {self.id}`, which writes it"
            )
        return created

    def check(self) -> None:
        """Read the records that a list of runs shows.

        Raises:
            DamagedRecordError: One of them is damaged.
        """
        _ = self.state
        for stage in ("search", "gate"):
            self.stage_record(stage)
        self.read(self.progress("search"))

    @property
    def state(self) -> str:
        """One of submitted, running, finished, failed, stopped, interrupted.

        ``submitted``: a job was sent and has not begun. ``interrupted``: it began, and nothing works on it any
        more, without having said why.
        """
        run, submission = self.read("run.json"), self.read("submission.json")
        if submission is not None and submission.get("pending"):
            if self._is_held:  # its job is about to say so
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
        """Whether somebody works on a run that looks interrupted; may listen for some seconds."""
        return still_beats(self.store, self.key())

    @contextmanager
    def held(self) -> Iterator[Lease]:
        """Hold the run for writing, with a heartbeat; a request to stop interrupts the main thread.

        Raises:
            InputError: Another process holds it.
            DamagedRecordError: Who holds it cannot be read.
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
        """Whether somebody has asked for its end."""
        return self.store.read(self.key("stop.json")) is not None

    def request_stop(self) -> None:
        """Ask whoever works on it to stop at the next heartbeat."""
        self.write("stop.json", {"at": now()})

    def clear_stop(self) -> None:
        """Forget a request to stop."""
        self.store.delete(self.key("stop.json"))


def name_run(name: str, run_id: str | None) -> str:
    """The id given, or a new one that begins with ``name``.

    Raises:
        InputError: The id has characters that a directory name should not have.
    """
    if run_id is None:
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        slug = re.sub(r"[^A-Za-z0-9]+", "-", name)[:40].strip("-") or "job"
        run_id = f"{slug}-{stamp}-{secrets.token_hex(2)}"
    if not _ID.fullmatch(run_id) or run_id == LATEST:
        raise InputError(
            f"--run-id: {shown(run_id)} cannot name a run; use up to 80 letters, digits, '.', '_' and '-' "
            f"(and not {LATEST!r})"
        )
    return run_id


def command(name: str, run: Run, options: str = "") -> str:
    """A command about a run to copy; it names the storage where that is not the default one."""
    from ..specification.config import StorageConfig

    storage = "" if run.store == Store(StorageConfig().path) else f"--storage {shlex.quote(run.store.url)}"
    return " ".join(filter(None, [own_name(), name, run.id, options, storage]))


def own_name() -> str:
    """How to call this command line from here: by its name, or by its path where it is not on PATH."""
    own = Path(sys.argv[0])
    if own.name != "distiltune" or shutil.which(own.name) or not own.is_file():
        return "distiltune"
    path = own.absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def seconds_since(moment: str) -> float:
    """Seconds from a time of a record until now."""
    return max(0.0, round(time.time() - epoch_of(moment), 1))


def epoch_of(moment: str) -> float:
    """Seconds since 1970 of a time of a record."""
    return datetime.datetime.fromisoformat(moment).timestamp()


def now() -> str:
    """The time in ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
