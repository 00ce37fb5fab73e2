"""The run store: every path of a run, its records, and the runs of a storage directory."""

from __future__ import annotations

import datetime
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import ConfigError, InputError, RunNotFoundError

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


class Storage:
    """A directory that holds runs and the caches they share."""

    def __init__(self, path: str) -> None:
        if re.match(r"^[a-z][a-z0-9+.-]*://", path) and not path.startswith("file://"):
            raise ConfigError(
                f"storage.path: {path!r} is a remote store; this version keeps runs in a local or mounted "
                "directory, for example --storage ./distiltune-runs"
            )
        self.root = Path(path.removeprefix("file://")).expanduser().absolute()

    @property
    def runs_dir(self) -> Path:
        """Where every run has a directory."""
        return self.root / "runs"

    @property
    def teachers(self) -> Path:
        """Prepared teachers, keyed by content."""
        return self.root / "cache" / "teachers"

    @property
    def logits(self) -> Path:
        """Teachers' logits, keyed by content."""
        return self.root / "cache" / "logits"

    def name_run(self, name: str, run_id: str | None) -> str:
        """The id given, or a new one that begins with ``name``.

        Raises:
            InputError: The id has characters that a directory name should not have.
        """
        if run_id is None:
            stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
            slug = re.sub(r"[^A-Za-z0-9]+", "-", name)[:40].strip("-") or "job"
            run_id = f"{slug}-{stamp}-{secrets.token_hex(2)}"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", run_id) or run_id == LATEST:
            raise InputError(
                f"--run-id: {run_id!r} cannot name a run; use up to 80 letters, digits, '.', '_' and '-' "
                f"(and not {LATEST!r})"
            )
        return run_id

    def create(self, run_id: str) -> Run:
        """Make a run's directory, or open the one of that id.

        Raises:
            ConfigError: The storage cannot be written.
        """
        run = Run(self, run_id)
        try:
            run.dir.mkdir(parents=True, exist_ok=True)
            probe = run.dir / f".probe-{secrets.token_hex(4)}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"storage.path: {self.root} cannot be written ({error.strerror}); "
                "choose another with --storage DIR"
            ) from None
        return run

    def open(self, run_id: str) -> Run:
        """The run of that id; ``latest`` is the newest.

        Raises:
            RunNotFoundError: There is none; the message lists the newest runs there are.
        """
        runs = self.list()
        if run_id == LATEST and runs:
            return runs[0]
        run = Run(self, run_id)
        if run in runs:
            return run
        known = ", ".join(found.id for found in runs[:3]) or "none"
        raise RunNotFoundError(
            f"no run {run_id!r} in {self.root} (newest: {known}); "
            "list them with `distiltune runs`, or name their directory with --storage"
        )

    def list(self) -> list[Run]:
        """Every run, newest first."""
        found = [Run(self, path.parent.name) for path in self.runs_dir.glob("*/job.json")]
        return sorted(found, key=lambda run: (run.read("run.json") or {}).get("created", ""), reverse=True)


class Run:
    """One run: every path of its directory is built here."""

    def __init__(self, storage: Storage, run_id: str) -> None:
        self.storage = storage
        self.id = run_id
        self.dir = storage.runs_dir / run_id
        self.job = self.dir / "job.json"
        self.search = self.dir / "search"
        self.tensorboard = self.dir / "tensorboard"
        self.student = self.dir / "student"
        self.best = self.dir / "best"
        self.variants = self.dir / "variants"
        self.artifact = self.dir / "artifact"
        self.report = self.dir / "report"
        self.log = self.dir / "run.log"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.dir == self.dir

    def __hash__(self) -> int:
        return hash(self.dir)

    def stage_record(self, stage: str) -> dict[str, Any]:
        """What is known of a stage: ``state``, ``seconds``, ``result``; empty before it began."""
        return self.read(f"stages/{stage}.json") or {}

    def read(self, name: str) -> dict[str, Any] | None:
        """A record by its path in the run, or None."""
        try:
            return json.loads((self.dir / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def write(self, name: str, record: dict[str, Any]) -> None:
        """Write a record so that no reader sees half of it."""
        write_json(self.dir / name, record)

    @property
    def state(self) -> str:
        """``finished``, ``failed``, ``running``, or ``interrupted`` when nothing holds the run any more."""
        state = (self.read("run.json") or {}).get("state", "interrupted")
        if state != "running":
            return state
        return "running" if self._is_held() else "interrupted"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run for writing; the operating system lets go of it when the process dies.

        Raises:
            InputError: Another process holds it.
        """
        lock = self._lock()
        try:
            lock.acquire(timeout=1)  # whoever looks at the run holds the lock for a moment too
        except Timeout:
            raise InputError(
                f"run {self.id} is being worked on by another process; "
                f"watch it with `distiltune show {self.id}`"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _lock(self) -> FileLock:
        return FileLock(self.dir / ".lock")

    def _is_held(self) -> bool:
        lock = self._lock()
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except OSError:  # a storage that may only be read: nobody can hold it from here
            return False
        lock.release()
        return False


def write_json(path: Path, record: Any) -> None:
    """Write JSON under a temporary name, then move it to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    temporary.write_text(
        json.dumps(record, indent=2, sort_keys=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    temporary.replace(path)
