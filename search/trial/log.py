"""The log of one trial: its own lines, warnings of the libraries, and what was printed meanwhile."""

from __future__ import annotations

import io
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO

from transformers.utils import logging as transformers_logging

from ...storage.logs import LogWriter
from ...storage.store import Store

_LOGGERS = ("distiltune", "transformers", "py.warnings")


@contextmanager
def trial_log(store: Store, key: str) -> Iterator[Callable[[str], None]]:
    """A function that adds a line to the log, which is closed however the block ends.

    Meanwhile warnings of ``distiltune``, ``transformers`` and Python, and what Python code prints, go there
    too. An exception that leaves the block is written with its traceback. One trial at a time in a process.

    Raises:
        StorageError: The storage does not answer.
    """
    writer = LogWriter(store, key)
    writer.setLevel(logging.WARNING)
    writer.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")
    )

    def say(text: str) -> None:
        writer.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    out, err = _Tee(sys.stdout, writer), _Tee(sys.stderr, writer)
    try:
        with _warnings_to(writer), redirect_stdout(out), redirect_stderr(err):
            yield say
    except Exception:
        say(traceback.format_exc().rstrip())
        raise
    finally:
        out.writer = err.writer = None
        writer.close()


@contextmanager
def _warnings_to(writer: LogWriter) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    verbosity = transformers_logging.get_verbosity()
    for each in loggers:
        each.addHandler(writer)
    # On the screen they are errors only (RAY_WORKER_ENV); the log has the warnings too.
    transformers_logging.set_verbosity_warning()
    transformers_logging.disable_default_handler()
    try:
        yield
    finally:
        transformers_logging.enable_default_handler()
        transformers_logging.set_verbosity(verbosity)
        for each in loggers:
            each.removeHandler(writer)


class _Tee(io.TextIOBase):
    """Writes to a stream, and to the log as well; to flush is the stream's alone, the log has a rhythm.

    A library may keep it for longer than the trial: ``writer`` is None from then on.
    """

    def __init__(self, stream: TextIO, writer: LogWriter) -> None:
        self._stream = stream
        self.writer: LogWriter | None = writer

    def write(self, text: str, /) -> int:
        """Write to both."""
        if self.writer is not None:
            self.writer.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()
