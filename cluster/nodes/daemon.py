"""Daemons that `distiltune cluster` keeps on this machine: record, find and stop them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from ...errors import InputError, RunFailedError, shown
from ...storage.environment import home_directory
from ...storage.folders import write_file
from ...storage.safe_reading import read_regular
from ...storage.temporary import short_temporary_directory

MARK = "DISTILTUNE_DAEMON"
_LOCK_TIMEOUT_S = 120.0
_KILL_TIMEOUT_S = 10.0
_PREFIX = "dtc-"
_RECORD_BYTES = 2**20


@dataclass(frozen=True)
class Daemon:
    """The record of a daemon; ``create_time`` (seconds since the epoch) guards against a reused process id."""

    kind: str  # "head" or "node"
    directory: str
    pid: int
    create_time: float
    address: str  # host:port that nodes join
    dashboard: str | None
    token_file: str | None
    options: dict[str, str | int | bool | None]

    @property
    def log(self) -> Path:
        """File with the output of Ray's command line."""
        return state_directory() / f"{Path(self.directory).name}.log"

    @property
    def record(self) -> Path:
        """File that holds this record."""
        return state_directory() / f"{Path(self.directory).name}.json"


def state_directory() -> Path:
    """Create and return the private state directory of `distiltune cluster`.

    It is ``$DISTILTUNE_STATE_DIR``, or else ``distiltune/cluster`` in the user's state directory.

    Raises:
        InputError: The directory cannot be created.
    """
    given = os.environ.get("DISTILTUNE_STATE_DIR")
    home = home_directory()
    above = os.environ.get("XDG_STATE_HOME") or (home and home / ".local" / "state")
    if not given and not above:
        raise InputError(
            "DISTILTUNE_STATE_DIR: not set, and this user has no home directory; set it to a directory of your own"
        )
    path = Path(given).absolute() if given else Path(str(above)) / "distiltune" / "cluster"
    try:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise InputError(
            f"DISTILTUNE_STATE_DIR: {shown(str(path))} cannot store the cluster's state: {error.strerror}; set it "
            f"to a directory of your own"
        ) from error
    return path


@contextmanager
def locked() -> Iterator[None]:
    """Hold the lock that lets only one command at a time start or stop daemons.

    Raises:
        RunFailedError: Another command has held the lock for two minutes.
    """
    try:
        with FileLock(state_directory() / "lock", timeout=_LOCK_TIMEOUT_S):
            yield
    except Timeout as error:
        raise RunFailedError(
            "another `distiltune cluster` command is running on this machine; try again"
        ) from error


def private_directory() -> Path:
    """Create a directory that only this user can access; its path is short, as Ray's sockets require."""
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=short_temporary_directory()))


def spawn(arguments: list[str], directory: Path, environment: dict[str, str]) -> int:
    """Start ``python -m`` with ``arguments`` in its own session, to outlive this process; return its id."""
    log = state_directory() / f"{directory.name}.log"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        # -P: a module in the working directory must not shadow one of Ray's.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=home_directory() or Path("/"),
            env={**environment, MARK: str(directory)},
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    # Python warns about a child that was not waited for; this one is left running on purpose.
    process.returncode = 0
    return process.pid


def save(daemon: Daemon) -> None:
    """Record a daemon."""
    write_file(daemon.record, json.dumps(asdict(daemon), indent=2), private=True)


def daemons() -> list[Daemon]:
    """Return the running daemons, the head first, and remove what is left of the others."""
    running = running_daemons()
    for path in _records():
        daemon = _load(path)
        if daemon is None:
            path.unlink(missing_ok=True)
        elif daemon not in running:
            stop(daemon)
    _remove_orphaned_directories()
    return running


def _remove_orphaned_directories() -> None:
    """Delete the directories of daemons that were killed before they were recorded, or whose record is gone."""
    recorded = {daemon.directory for daemon in map(_load, _records()) if daemon}
    for path in short_temporary_directory().glob(f"{_PREFIX}*"):
        with suppress(OSError):
            about = path.lstat()
            is_recent = time.time() - about.st_mtime < _LOCK_TIMEOUT_S  # its daemon may be starting
            if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or is_recent:
                continue
            if str(path) not in recorded and not _is_in_use(path):
                shutil.rmtree(path, ignore_errors=True)


def _is_in_use(directory: Path) -> bool:
    """Return whether a process of this user belongs to the daemon of a directory, recorded here or elsewhere."""
    for process in _own_processes():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == str(directory) or f"{directory}/" in " ".join(
                process.cmdline()
            ):
                return True
    return False


def running_daemons() -> list[Daemon]:
    """Return the running daemons, the head first, without removing anything."""
    found = [daemon for daemon in map(_load, _records()) if daemon and main_process(daemon)]
    return sorted(found, key=lambda each: each.kind != "head")


def main_process(daemon: Daemon) -> psutil.Process | None:
    """Return the daemon's first process, or None if it has ended, even if its id has been reused since."""
    process = _same_process(daemon)
    return process if process and _lives(process) else None


def stop(daemon: Daemon, grace_s: float = 20.0) -> None:
    """Stop every process of a daemon, with ``grace_s`` to exit before SIGKILL, then remove its files.

    Raises:
        RunFailedError: Processes are left even after SIGKILL; the record then stays.
    """
    first = main_process(daemon)
    processes = set(_processes(daemon))
    if first:
        # Jobs have their own sessions. They need Ray to save their state, and Ray would kill them on exit.
        jobs = list(filter(_leads_a_session, processes - {first}))
        for process in jobs:
            _send(process, signal.SIGTERM)
        psutil.wait_procs(jobs, timeout=grace_s / 2)
        _send(first, signal.SIGTERM)
        psutil.wait_procs([first], timeout=grace_s)
        processes |= set(_processes(daemon))
    psutil.wait_procs(list(processes), timeout=3 if first else 0)
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while left := _processes(daemon):
        if time.monotonic() > deadline:
            ids = ", ".join(str(process.pid) for process in left)
            raise RunFailedError(
                f"processes of {daemon.directory} do not exit: {ids}; kill them, then run the command again"
            )
        for process in left:
            _send(process, signal.SIGKILL)
        psutil.wait_procs(left, timeout=1)
    shutil.rmtree(daemon.directory, ignore_errors=True)
    if daemon.token_file and Path(daemon.token_file).parent == state_directory():
        Path(daemon.token_file).unlink(missing_ok=True)
    daemon.log.unlink(missing_ok=True)
    daemon.record.unlink(missing_ok=True)


def _same_process(daemon: Daemon) -> psutil.Process | None:
    """Return the recorded process if its id has not been reused; it may be a zombie."""
    try:
        process = psutil.Process(daemon.pid)
        return process if abs(process.create_time() - daemon.create_time) < 2 else None
    except psutil.NoSuchProcess:
        return None


def _records() -> list[Path]:
    return sorted(state_directory().glob(f"{_PREFIX}*.json"))


def _load(path: Path) -> Daemon | None:
    from pydantic import TypeAdapter

    try:
        daemon = TypeAdapter(Daemon).validate_json(read_regular(path, _RECORD_BYTES), strict=True)
    except (OSError, ValueError):  # pydantic's ValidationError is a ValueError
        return None
    return daemon if daemon.pid > 0 else None


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _processes(daemon: Daemon) -> list[psutil.Process]:
    """Return every process of a daemon: its tree, and orphans (found by session, mark or directory)."""
    found: set[psutil.Process] = set()
    first = main_process(daemon)
    if first:
        with suppress(psutil.NoSuchProcess):
            found = {first, *first.children(recursive=True)}
    session_is_ours = _same_process(daemon) is not None or not psutil.pid_exists(daemon.pid)
    for process in _own_processes():
        if process.info["create_time"] < daemon.create_time - 2:
            continue
        with suppress(psutil.Error, OSError):
            if _is_part(process, daemon, session_is_ours):
                found.update({process, *process.children(recursive=True)})
    return [process for process in found if _lives(process)]


def _own_processes() -> Iterator[psutil.Process]:
    """Yield the other processes of this user; ``info`` has their ``create_time``."""
    for process in psutil.process_iter(["uids", "create_time"]):
        owner = process.info["uids"]
        if process.pid != os.getpid() and owner is not None and owner.real == os.getuid():
            yield process


def _is_part(process: psutil.Process, daemon: Daemon, session_is_ours: bool) -> bool:
    command = " ".join(process.cmdline())
    if "/ray/" in command and f"{daemon.directory}/" in command:
        return True
    # Processes that set their own title (ray::…) have no readable environment.
    if session_is_ours and "ray" in command and os.getsid(process.pid) == daemon.pid:
        return True
    return process.environ().get(MARK) == daemon.directory


def _leads_a_session(process: psutil.Process) -> bool:
    with suppress(OSError):
        return os.getsid(process.pid) == process.pid
    return False


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
