"""Text views of a status: rendered for the terminal, on one line, and the next command."""

from __future__ import annotations

import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..store.runs import seconds_since
from .status import COUNTS, ENDED

COLOURS = {
    "finished": "green",
    "running": "cyan",
    "failed": "red",
    "stopped": "yellow",
    "interrupted": "yellow",
    "damaged": "red",
    "waiting": "dim",
}


def print_status(console: Console, found: dict[str, Any]) -> None:
    """Print a status and the next command, on one unwrapped line so that it can be copied."""
    console.print(render(found))
    print_next(console, found)


def print_next(console: Console, found: dict[str, Any]) -> None:
    """Print the next command."""
    console.print(Text.assemble(("next", "bold"), "  ", found["next"]), soft_wrap=True)


def render(found: dict[str, Any]) -> RenderableType:
    """Render a status for the terminal."""
    parts: list[RenderableType] = [_headline(found)]
    if found["error"]:
        parts.append(Text(found["error"], style="red", overflow="fold"))
    table = Table(box=None, pad_edge=False, show_header=False)
    for justify in ("left", "left", "right", "left"):
        table.add_column(justify=justify, overflow="fold")
    for stage in found["stages"]:
        seconds, is_current = stage["seconds"], stage["name"] == found["stage"]
        table.add_row(
            stage["name"],
            Text(stage["state"], style=COLOURS.get(stage["state"], "")),
            "" if seconds is None else duration(seconds),
            Text((found["progress"] or "") if is_current else stage["text"]),
        )
    parts.append(table)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, text in _facts(found).items():
        grid.add_row(name, Text(text))
    return Group(*parts, grid) if grid.row_count else Group(*parts)


def line(found: dict[str, Any]) -> str:
    """Format a status as one plain line, for output that is not a terminal."""
    parts = [found["state"]]
    if found["stage"] is not None:
        parts.append(" ".join(filter(None, [found["stage"], found["progress"]])))
    if _is_waiting_unreported(found):
        parts.append(f"waiting for {found['waiting_for']}")
    if found["error"]:
        parts.append(found["error"])
    if found["state"] in ENDED:
        parts.append(f"next: {found['next']}")
    return "; ".join(parts)


def local_time(moment: str) -> str:
    """Format a record's time in this machine's time zone."""
    return f"{datetime.datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M:%S}" if moment else ""


def duration(seconds: float) -> str:
    """Format a duration: ``5.1 s``, ``3 min 07 s``, ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def age(moment: str) -> str:
    """Format the time since a record's time: ``12 s``, ``5 min``, ``3 h``, ``12 d``."""
    seconds = seconds_since(moment)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _headline(found: dict[str, Any]) -> Text:
    if found["state"] in ENDED and found["ended"] is not None:
        when = (
            f"{'last heartbeat' if found['state'] == 'interrupted' else 'since'} {local_time(found['ended'])}"
        )
    else:
        when = f"{'since' if found['state'] == 'submitted' else 'started'} {local_time(found['created'])}"
    styled = (
        (found["run_id"], "bold"),
        (found["state"], COLOURS.get(found["state"], "cyan")),
        (when, "dim"),
    )
    return Text("  ", overflow="fold").join(Text(*each) for each in styled)


def _facts(found: dict[str, Any]) -> dict[str, str]:
    facts = {}
    if found["trials"]:
        counts = found["trials"]
        others = ", ".join(f"{counts[name]} {name}" for name in COUNTS[2:])
        facts["trials"] = f"{counts['done']} of {counts['num_trials']} done, {others}"
    if found["best"]:
        best = found["best"]
        values = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in best["parameters"].items()
        )
        facts["best"] = f"{best['value']:.4f} by trial {best['trial_id']}: {values}"
    if _is_waiting_unreported(found):
        facts["waiting for"] = found["waiting_for"]
    return facts


def _is_waiting_unreported(found: dict[str, Any]) -> bool:
    """Return whether the run waits for something that its progress line does not include."""
    return bool(found["waiting_for"]) and found["waiting_for"] not in (found["progress"] or "")
