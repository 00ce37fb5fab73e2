"""Logs that outlive the process that wrote them: stored in pieces, readable while they grow."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from .store import Store

_PIECE_BYTES = 64 * 1024
_PERIOD_S = 2.0
_PIECE = re.compile(r"\d{6}\.log")


class LogWriter(logging.Handler):
    """Append lines to a log in a store; new text is written within two seconds.

    Objects cannot be appended to, so a log is a folder of numbered pieces: the last one is rewritten until
    it is full. A second writer of the same log starts a new piece. While the store is unavailable, new text
    is kept in memory; text that still cannot be sent at ``close`` is dropped.

    Args:
        store: Store to write to.
        key: The log's folder.
        tee: Stream that the text is also written to, line by line.
    """

    def __init__(self, store: Store, key: str, tee: TextIO | None = None) -> None:
        super().__init__()
        self._store = store.once
        self._key = key
        self._tee = tee
        pieces = _pieces(store, key)
        self._number = int(pieces[-1][:6]) + 1 if pieces else 0
        self._text = b""
        self._sent = 0  # bytes of the current piece that are in the store
        self._text_lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._send_periodically, name=f"log-{key}", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Append text unchanged."""
        if self._tee is not None:
            self._tee.write(text)
            self._tee.flush()
        with self._text_lock:
            self._text += text.encode("utf-8", "replace")

    def emit(self, record: logging.LogRecord) -> None:
        """Append a logging record as one line."""
        self.write(self.format(record) + "\n")

    def flush(self) -> None:
        """Send new text; text that cannot be sent now is kept for the next call."""
        with self._send_lock:
            while True:
                with self._text_lock:
                    text = self._text
                if len(text) == self._sent:
                    return
                piece = text[:_PIECE_BYTES]
                try:
                    self._store.write(f"{self._key}/{self._number:06}.log", piece)
                except Exception:  # whatever the file system raises; the next call tries again
                    return
                self._sent = len(piece)
                if len(piece) < _PIECE_BYTES:
                    return
                with self._text_lock:
                    self._text = self._text[_PIECE_BYTES:]
                self._number += 1
                self._sent = 0

    def close(self) -> None:
        """Send new text, and stop the thread that sends it."""
        self._stopped.set()
        self._thread.join()
        self.flush()
        super().close()

    def _send_periodically(self) -> None:
        while not self._stopped.wait(_PERIOD_S):
            self.flush()


@contextmanager
def logged_to(writer: LogWriter) -> Iterator[None]:
    """Write ``distiltune`` logs from INFO up, and other logs from WARNING up, to a writer; close it afterwards."""
    writer.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S"))
    own, others = logging.getLogger("distiltune"), logging.getLogger()
    level = own.level
    own.setLevel(min(level or logging.INFO, logging.INFO))
    handlers = [(own, writer), (others, _OtherLibraries(writer))]
    for logger, handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, handler in handlers:
            logger.removeHandler(handler)
        own.setLevel(level)
        writer.close()


class _OtherLibraries(logging.Handler):
    """Forward records of other libraries, from WARNING up."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__(logging.WARNING)
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith("distiltune"):
            self._writer.emit(record)


def read_log(store: Store, key: str, offset: int = 0) -> tuple[str, int]:
    """Return a log's text from a byte offset on, and the offset of its end; no text if there is no log yet."""
    sizes, start, found = store.sizes(key), 0, b""
    for name in sorted(name for name in sizes if _PIECE.fullmatch(name)):
        end = start + sizes[name]
        if end > offset:
            piece = store.read(f"{key}/{name}") or b""
            found += piece[max(0, offset - start) :]
            end = max(end, start + len(piece))
        start = end
    return found.decode("utf-8", "replace"), offset + len(found)


def _pieces(store: Store, key: str) -> list[str]:
    return [name for name in store.names(key) if _PIECE.fullmatch(name)]
