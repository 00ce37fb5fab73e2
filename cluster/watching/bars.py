"""Progress bar of the running stage on a terminal: units done, time taken and left, and its latest lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_REFRESHES_PER_S = 4
_WIDEST_BAR, _NARROWEST_BAR = 40, 5  # columns
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class TimeLeft:
    """Estimates the time left of a computation from the rate at which it advances.

    The first state is only a starting point, since a resumed stage begins with most of its work done.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._total = 0
        self._first: tuple[int, float] | None = None
        self._last: tuple[int, float] | None = None

    def update(self, done: int, total: int) -> None:
        """Record the state of the computation; a smaller ``done`` or another ``total`` starts a new one."""
        if total != self._total or (self._last is not None and done < self._last[0]):
            self._first = self._last = None
        if self._last is None or done > self._last[0]:
            self._last = (done, self._clock())
        self._first = self._first or self._last
        self._total = total

    @property
    def seconds(self) -> float | None:
        """Seconds left; None before the rate is known."""
        if self._first is None or self._last is None or self._last[0] <= self._first[0]:
            return None
        rate = (self._last[0] - self._first[0]) / max(self._last[1] - self._first[1], 1e-9)
        left = (self._total - self._last[0]) / rate
        return max(0.0, left - (self._clock() - self._last[1]))


class StageBar:
    """Live display of one stage: a bar if its number of units is known, else a spinner; below it, its latest line.

    A stage with parallel tasks has a line for each of them. No line is longer than the terminal is wide. Output that
    is printed meanwhile appears above.

    Args:
        console: Console on a terminal.
        stage: Name of the stage.
        clock: Returns seconds.
    """

    def __init__(self, console: Console, stage: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.stage = stage
        self._clock = clock
        self._began = clock()
        self._left = TimeLeft(clock)
        self._done: int | None = None
        self._total = 0
        self._lines: list[str] = []
        self._live = Live(self, console=console, refresh_per_second=_REFRESHES_PER_S, transient=True)

    def start(self) -> None:
        """Draw the bar until ``stop`` is called."""
        self._live.start()

    def stop(self) -> None:
        """Remove the bar from the screen."""
        self._live.stop()

    def update(
        self, text: str, done: Any = None, total: Any = None, lines: Sequence[str] | None = None
    ) -> None:
        """Show the stage's latest line and, if known, how many of its units are done.

        Args:
            text: The line.
            done: Number of units that are done.
            total: Number of all units.
            lines: Lines to show in place of ``text``.
        """
        self._lines = [" ".join(each.split()) for each in lines or [text] if each.strip()]
        if isinstance(done, int) and isinstance(total, int) and total > 0:
            self._done, self._total = done, total
            self._left.update(done, total)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Table.grid(padding=(0, 1))
        cells: list[Any] = [f"{self.stage:<10}"]
        took = self._clock() - self._began
        if self._done is None:
            cells += [_SPINNER[int(took * _REFRESHES_PER_S) % len(_SPINNER)], _clock_text(took)]
        else:
            left = self._left.seconds
            facts = [f"{self._done:,}/{self._total:,}", _clock_text(took)]
            facts += [] if left is None or self._done >= self._total else [f"{_clock_text(left)} left"]
            while (room := options.max_width - len(cells[0]) - sum(1 + len(fact) for fact in facts)) < 0:
                facts.pop()  # a very narrow terminal
            room -= 1
            if room >= _NARROWEST_BAR:
                cells.append(ProgressBar(self._total, self._done, width=min(_WIDEST_BAR, room)))
            cells += facts
        for _ in cells:
            line.add_column(no_wrap=True)
        line.add_row(*cells)
        yield line
        for each in self._lines:
            yield Text(f"  {each}", no_wrap=True, overflow="ellipsis", style="dim")


def _clock_text(seconds: float) -> str:
    """Format a duration: ``0:07``, ``12:30``, ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
