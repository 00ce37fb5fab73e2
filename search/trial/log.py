"""The log of one trial: its own lines, warnings of libraries, and printed output."""

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
    """Open a trial's log for a block, and yield a function that adds a line to it.

    Inside the block, warnings of ``distiltune``, ``transformers`` and Python, and the printed output of Python code,
    are written to the log too, and so is the traceback of an exception that leaves the block. A process can have only
    one such log at a time.

    Raises:
        StorageError: The storage does not respond.
    """
    writer = LogWriter(store, key)
    writer.setLevel(logging.WARNING)
    writer.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")
    )

    def log(text: str) -> None:
        writer.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    out, err = _Tee(sys.stdout, writer), _Tee(sys.stderr, writer)
    try:
        with _warnings_to(writer), redirect_stdout(out), redirect_stderr(err):
            yield log
    except Exception:
        log(traceback.format_exc().rstrip())
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
    # The console shows only errors (RAY_WORKER_ENV); the log has warnings too.
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
    """Write to a stream and to the log; only the stream is flushed, since the log is sent periodically.

    A library may keep this object after the trial has ended: ``writer`` is None from then on.
    """

    def __init__(self, stream: TextIO, writer: LogWriter) -> None:
        self._stream = stream
        self.writer: LogWriter | None = writer

    def write(self, text: str, /) -> int:
        """Write to the stream and the log."""
        if self.writer is not None:
            self.writer.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()
