"""Console output: a running job's progress on stderr, live or as plain lines, and tables on stdout."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.markup import escape

from .bars import StageBar
from .events import StageEvent

_PLAIN_EVERY_S = 3.0
_MARKS = {
    "finished": "[green]✓[/green]",
    "reused": "[green]✓[/green]",
    "failed": "[red]✗[/red]",
    "stopped": "[yellow]■[/yellow]",
}


def tables() -> Console:
    """Return a console on stdout; lines wrap at the terminal's width or at COLUMNS, but not in a pipe."""
    is_piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(highlight=False, width=10_000 if is_piped else None)


def bytes_text(num_bytes: int) -> str:
    """Format a size: ``17 kB``, ``4.2 MB``; 1 kB is 1,024 bytes, as in all sizes of this project."""
    amount = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if amount >= 10 or unit == "B" else f"{amount:.1f} {unit}"


class ProgressPrinter:
    """Listener that prints a job's events; a context manager, so that the live bar is always removed.

    On a terminal the running stage has a bar with the time taken and left, below the lines of stages that have ended.
    Elsewhere its progress is printed as plain lines, at most one in ``_PLAIN_EVERY_S`` seconds.

    Args:
        console: Console to print on; standard error by default.
        live: Whether to draw bars if that is a terminal.
        clock: Returns seconds.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        live: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._is_live = live and self._console.is_terminal and not self._console.is_dumb_terminal
        self._clock = clock
        self._bar: StageBar | None = None
        self._last = ""
        self._printed: tuple[str, float] | None = None

    def __enter__(self) -> ProgressPrinter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def __call__(self, event: StageEvent) -> None:
        """Show one event."""
        if event.state in _MARKS:
            self._stop()
            took = "reused" if event.state == "reused" else f"{event.seconds:.1f} s"
            text = escape(event.text)
            self._console.print(f"{_MARKS[event.state]} {event.stage:<10} {text} [dim]({took})[/dim]")
        elif event.state == "begun":
            self._console.print(f"  {event.stage:<10} {event.text}", markup=False)
        elif self._is_live:
            self._live(event)
        else:
            self._plain(event)

    def _plain(self, event: StageEvent) -> None:
        if not event.text or event.text == self._last:
            return
        now = self._clock()
        stage, printed = self._printed or ("", 0.0)
        if stage == event.stage and now - printed < _PLAIN_EVERY_S:
            return
        self._console.print(f"  {event.stage:<10} {event.text}", markup=False)
        self._last, self._printed = event.text, (event.stage, now)

    def _live(self, event: StageEvent) -> None:
        if self._bar is None or self._bar.stage != event.stage:
            self._stop()
            self._bar = StageBar(self._console, event.stage, self._clock)
            self._bar.start()
        values = event.values
        self._bar.update(event.text, values.get("done"), values.get("total"), values.get("parts"))

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
