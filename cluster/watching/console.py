"""Console output: a running job's progress on stderr, live or as plain lines, and tables on stdout."""

from __future__ import annotations

import os
import sys
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from .events import StageEvent

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
    """Listener that prints a job's events; a context manager, so that the live line is always removed."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._status: Status | None = None
        self._last = ""

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
        elif self._console.is_terminal:
            self._live(f"{event.stage:<10} {escape(event.text)}")
        elif event.text and event.text != self._last:
            self._console.print(f"  {event.stage:<10} {event.text}", markup=False)
        self._last = event.text

    def _live(self, text: str) -> None:
        if self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        self._status.update(text)

    def _stop(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
