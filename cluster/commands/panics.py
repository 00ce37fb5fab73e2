"""Panics of libraries written in Rust: kept off stderr where this package's own error says the same."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_STDERR = 2


@contextmanager
def quiet_panics() -> Iterator[None]:
    """Hold back what the block writes on stderr, and drop it where the block ends with an error that a panic caused.

    Rust prints a panic, with a backtrace, before Python gets it as an exception. This redirects the descriptor of the
    whole process, so it is for the command line, not for a library.
    """
    try:
        kept = os.dup(_STDERR)
    except OSError:  # stderr is closed
        yield
        return
    with os.fdopen(kept, "wb", closefd=True), tempfile.TemporaryFile() as held:
        with suppress(AttributeError, OSError):
            sys.stderr.flush()
        os.dup2(held.fileno(), _STDERR)
        panicked = False
        try:
            yield
        except Exception as error:
            panicked = type(error.__cause__).__name__ == "PanicException"
            raise
        finally:
            with suppress(AttributeError, OSError):
                sys.stderr.flush()
            os.dup2(kept, _STDERR)
            held.seek(0)
            if not panicked:
                with suppress(OSError):
                    os.write(_STDERR, held.read())
