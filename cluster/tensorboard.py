"""TensorBoard over a run: on its directory, or on a copy that is kept up to date with its remote event files."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError, StorageError
from ..storage.store import Store
from .runs import Run

logger = logging.getLogger(__name__)

_PERIOD_S = 3.0
_RELOAD_S = 3


def serve(run: Run, port: int) -> int:
    """Serve a run on 127.0.0.1 until Ctrl-C; trials that begin meanwhile appear.

    Args:
        run: It may have no trials yet.
        port: 0 takes a free one.

    Returns:
        TensorBoard's exit status.

    Raises:
        InputError: The port is taken.
    """
    port = _free(port)
    with _event_files(run) as directory:
        arguments = ["--logdir", str(directory), "--host", "127.0.0.1", "--port", str(port)]
        command = [sys.executable, "-m", "tensorboard.main", *arguments]
        server = subprocess.Popen([*command, "--reload_interval", str(_RELOAD_S)])
        try:
            return server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            server.terminate()
            server.wait()


def _free(port: int) -> int:
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind(("127.0.0.1", port))
        except OSError as error:
            raise InputError(
                f"--port: {port} on 127.0.0.1 cannot be used ({error.strerror}); give another, or 0 for a free one"
            ) from None
        return held.getsockname()[1]


@contextmanager
def _event_files(run: Run) -> Iterator[Path]:
    if run.store.directory is not None:
        directory = run.store.directory / run.tensorboard
        directory.mkdir(parents=True, exist_ok=True)
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="distiltune-events-") as name:
        copy, ended = EventCopy(run.store, run.tensorboard, Path(name)), threading.Event()
        copy.update()
        thread = threading.Thread(target=_update_often, args=(copy, ended), daemon=True)
        thread.start()
        try:
            yield Path(name)
        finally:
            ended.set()
            thread.join()


def _update_often(copy: EventCopy, ended: threading.Event) -> None:
    while not ended.wait(_PERIOD_S):
        try:
            copy.update()
        except StorageError as error:
            logger.warning("%s; the pictures stand still until it is back", error)


class EventCopy:
    """A local copy of a folder of event files; what is new is appended to the files in place.

    TensorBoard keeps event files open and reads on where they ended, so they must not be replaced.
    """

    def __init__(self, store: Store, key: str, directory: Path) -> None:
        self._store = store
        self._key = key
        self._directory = directory

    def update(self) -> None:
        """Bring what is new."""
        for name, size in self._store.sizes(self._key).items():
            target = self._directory / name
            have = target.stat().st_size if target.exists() else 0
            if size <= have:
                continue
            content = self._store.read(f"{self._key}/{name}") or b""
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("ab") as file:
                file.write(content[have:])
