"""A small process that cleans up after this one if it is killed and cannot do so itself."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

_DISMISSED = b"."
_END_WITHIN_S = 10.0


class Watchdog:
    """Kills processes and removes directories once this process has ended, however it ended.

    It blocks on a pipe that the kernel closes with this process, in its own session, so that a signal to this
    process's group does not reach it. Finally it also removes temporary directories that no process holds any
    more: those of the processes that it has killed.

    Args:
        directories: Directories to delete. Before that, every process of this user is killed that was started with
            a path below one of them, has an open file there or has its working directory there.
        processes: Ids of processes to kill, with their descendants.
    """

    def __init__(self, directories: Iterable[Path] = (), processes: Iterable[int] = ()) -> None:
        arguments = [tempfile.gettempdir(), *map(str, directories)]
        for pid in processes:
            with suppress(psutil.NoSuchProcess):
                arguments.append(f"{pid}@{psutil.Process(pid).create_time()}")
        self._process = subprocess.Popen(
            # Isolated, and by its path: no module in the working directory can shadow one of its imports.
            [sys.executable, "-I", str(Path(__file__).resolve()), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """End the watchdog without any cleanup, once this process has cleaned up itself."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(_DISMISSED)
            self._process.stdin.close()
        self._process.wait()


def end_users_of(directories: Sequence[Path]) -> None:
    """Kill every process of this user that uses a directory, with its descendants, until none is left."""
    deadline = time.monotonic() + _END_WITHIN_S
    while (found := _users_of(directories)) and time.monotonic() < deadline:
        _kill(found)


def _users_of(directories: Sequence[Path]) -> set[psutil.Process]:
    """Return the processes that use a directory, and their descendants, except for this process."""
    below = tuple(f"{path}/" for path in directories)
    own = psutil.Process()
    found: set[psutil.Process] = set()
    for process in psutil.process_iter(["uids"]):
        owner = process.info["uids"]
        if process == own or owner is None or owner.real != os.getuid():
            continue
        with suppress(psutil.Error, OSError):
            if _uses(process, below):
                found.update([process, *process.children(recursive=True)])
    return {each for each in found if each != own and _lives(each)}


def _uses(process: psutil.Process, below: tuple[str, ...]) -> bool:
    # Ray's workers change their title, so their open log files are checked as well.
    paths = [argument.partition("=")[2] or argument for argument in process.cmdline()]
    paths += [f"{process.cwd()}/", *(file.path for file in process.open_files())]
    return any(path.startswith(below) for path in paths)


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def _kill(processes: Iterable[psutil.Process]) -> None:
    waited_for = list(processes)
    for process in waited_for:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(waited_for, timeout=1)


def _named(argument: str) -> psutil.Process | None:
    """Return the process of ``pid@create_time``, or None if it has ended, even if its id has been reused."""
    pid, _, created = argument.partition("@")
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(int(pid))
        return process if process.create_time() == float(created) else None
    return None


def main(arguments: list[str]) -> None:
    """Wait for the end of the process that started this one, then clean up."""
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.SIG_IGN)
    if sys.stdin.buffer.read(1) == _DISMISSED:
        return
    temporary, *directories = [Path(argument) for argument in arguments if argument.startswith("/")]
    for argument in arguments:
        process = None if argument.startswith("/") else _named(argument)
        if process is not None:
            with suppress(psutil.NoSuchProcess):
                _kill([*process.children(recursive=True), process])
    if directories:
        end_users_of(directories)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)
    # By its path, like this module: the package may not be importable from an isolated Python.
    temporary_module = runpy.run_path(str(Path(__file__).parents[2] / "storage" / "temporary.py"))
    temporary_module["remove_abandoned"](temporary)


if __name__ == "__main__":
    main(sys.argv[1:])
