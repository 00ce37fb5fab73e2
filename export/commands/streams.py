"""Print to stdout, and hold back what panics in Rust libraries print to stderr."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_STDERR = 2


def echo(text: str) -> None:
    """Print a line on stdout, if there is a stdout."""
    if sys.stdout is not None:
        sys.stdout.write(text + "\n")


@contextmanager
def quiet_panics() -> Iterator[None]:
    """Buffer the block's output on stderr, and discard it if the block raises an error that a panic caused.

    Rust prints a panic, with a backtrace, before it becomes a Python exception. This redirects the descriptor of
    the whole process, so it is for the command line, not for a library.
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
