"""Serve a run with TensorBoard, from its directory or from a synchronized copy of its remote event files."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ...errors import InputError, RunFailedError, StorageError
from ...progress import Progress, ReportProgress
from ...storage.store import Store
from ...storage.temporary import temporary_directory
from ..session.watchdog import Watchdog
from ..store.runs import Run
from .status import reason

logger = logging.getLogger(__name__)

_PERIOD_S = 3.0
_RELOAD_S = 3
_END_WITHIN_S = 10.0


def serve(run: Run, port: int, report: ReportProgress | None = None) -> None:
    """Serve a run on 127.0.0.1 until Ctrl-C; trials that start meanwhile appear.

    For a run that reused the search of another, the event files of the other run are served.

    Args:
        run: Run to serve; it may have no trials yet.
        port: TCP port; 0 selects a free one.
        report: Called once the server responds; its URL is the value ``url``.

    Raises:
        InputError: The port is in use, or the run whose search was reused is no longer in the storage.
        RunFailedError: TensorBoard ended by itself; the message has its last line of output.
    """
    port = _free_port(port)
    searched = searched_by(run)
    origin = "" if searched == run else f", with the trials of run {searched.id}, whose search it reused"
    with suppress(KeyboardInterrupt), _event_files(searched) as directory, tempfile.TemporaryFile() as output:
        arguments = ["--logdir", str(directory), "--host", "127.0.0.1", "--port", str(port)]
        arguments += ["--reload_interval", str(_RELOAD_S)]
        command = [sys.executable, "-m", "tensorboard.main", *arguments]
        # Its own process group: Ctrl-C must reach only this process, which then stops the server.
        server = subprocess.Popen(command, stdout=output, stderr=output, process_group=0)
        copied = [] if run.store.directory is not None else [directory]
        watchdog = Watchdog(copied, [server.pid])
        try:
            if _answers(port, server) and report is not None:
                url = f"http://127.0.0.1:{port}/"
                message = f"TensorBoard of run {run.id}{origin}: {url} (Ctrl-C stops it)"
                report(Progress(message, {"url": url}))
            server.wait()
        finally:
            _end(server)
            watchdog.dismiss()
        output.seek(0)
        raise RunFailedError(_exit_message(server.returncode, output.read().decode(errors="replace")))


def searched_by(run: Run) -> Run:
    """Return the run that has the trials of a run's search: the run itself, unless it reused another run's search.

    Raises:
        InputError: The event files of the other run are no longer in the storage.
    """
    name = run.stage_record("search").get("reused_from")
    if name is None:
        return run
    other = Run(run.store, name)
    if not run.store.names(other.tensorboard):
        raise InputError(
            f"run {run.id} reused the search of run {name}, whose event files are no longer in the storage; for "
            f"charts, search again in a new run with --set storage.reuse=false"
        )
    return other


def _answers(port: int, server: subprocess.Popen[bytes]) -> bool:
    while server.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        time.sleep(0.1)
    return False


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_END_WITHIN_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _exit_message(status: int, output: str) -> str:
    if status < 0:
        return f"TensorBoard was killed by {signal.Signals(-status).name}"
    lines = output.strip().splitlines() or ["it printed nothing"]
    return f"TensorBoard exited by itself (status {status}): {lines[-1]}"


def _free_port(port: int) -> int:
    """Return ``port`` if it is free, or any free port if it is 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise InputError(
                f"--port: {port} on 127.0.0.1 cannot be used ({error.strerror}); give another, or 0 for a free one"
            ) from None
        return probe.getsockname()[1]


@contextmanager
def _event_files(run: Run) -> Iterator[Path]:
    if run.store.directory is not None:
        directory = run.store.directory / run.tensorboard
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"run {run.id} has no event files yet, and their directory cannot be created here: {error}; try "
                f"again once a trial has started"
            ) from None
        yield directory
        return
    with temporary_directory("events") as copied:
        # No retries: the copy is updated every period anyway.
        store = run.store.once
        copy, ended = EventCopy(store, run.tensorboard, copied), threading.Event()
        copy.update()
        thread = threading.Thread(target=_update_often, args=(copy, ended), daemon=True)
        thread.start()
        try:
            yield copied
        finally:
            ended.set()
            thread.join()


def _update_often(copy: EventCopy, ended: threading.Event) -> None:
    """Update the copy periodically; a failure is logged once and retried."""
    was_away = False
    while not ended.wait(_PERIOD_S):
        try:
            copy.update()
            was_away = False
        except (StorageError, OSError) as error:
            if not was_away:
                logger.warning(
                    "the charts are not updated: their event files cannot be copied: %s", reason(error)
                )
            was_away = True


class EventCopy:
    """A local copy of a folder of event files; new content is appended to the files in place.

    TensorBoard keeps event files open and continues reading at their former end, so they must not be replaced.
    """

    def __init__(self, store: Store, key: str, directory: Path) -> None:
        self._store = store
        self._key = key
        self._directory = directory

    def update(self) -> None:
        """Append new content, and delete files that no longer exist, such as those of a trial that was renamed."""
        sizes = self._store.sizes(self._key)
        for path in [path for path in self._directory.rglob("*") if path.is_file()]:
            if path.relative_to(self._directory).as_posix() not in sizes:
                path.unlink()
                with suppress(OSError):  # it still has other files
                    path.parent.rmdir()
        for name, size in sizes.items():
            if ".." in name.split("/"):  # a valid object name, but it would escape the directory
                continue
            target = self._directory / name
            have = target.stat().st_size if target.exists() else 0
            if size <= have:
                continue
            content = self._store.read(f"{self._key}/{name}") or b""
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("ab") as file:
                file.write(content[have:])
