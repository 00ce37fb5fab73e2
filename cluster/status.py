"""How far a run is, from its records alone: what `status` prints, follows and gives as JSON."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from .runs import STAGES, Run, command

ENDED = ("finished", "failed", "stopped", "interrupted")
_COLOURS = {
    "finished": "green",
    "running": "cyan",
    "failed": "red",
    "stopped": "yellow",
    "interrupted": "yellow",
    "waiting": "dim",
}


class Watch:
    """Reads a run again and again; records of finished stages are read once."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._finished: dict[str, dict[str, Any]] = {}

    def read(self) -> dict[str, Any]:
        """The object that ``status --json`` prints."""
        run = self._run
        state = run.state
        record = run.read("run.json") or {}
        stages = self._stages(state)
        current = next((stage for stage in stages if stage["state"] == "running"), None)
        progress = run.read(run.progress(current["name"])) if current else None
        waiting_for = (progress or {}).get("waiting_for")
        if state == "submitted":
            waiting_for = "the cluster to start its job"
        return {
            "run_id": run.id,
            "state": state,
            "created": run.created,
            "ended": record.get("ended") if state in ENDED else None,
            "error": record.get("error"),
            "stages": stages,
            "stage": current["name"] if current else None,
            "progress": (progress or {}).get("text"),
            "trials": self._trials(current, progress),
            "best": self._best(current, progress),
            "waiting_for": waiting_for,
            "next": next_command(run, state),
        }

    def _stages(self, state: str) -> list[dict[str, Any]]:
        rows = []
        for stage in STAGES:
            held = self._finished.get(stage) or self._run.stage_record(stage)
            if held.get("state") == "finished":
                self._finished[stage] = held
            said, seconds = held.get("state", "waiting"), held.get("seconds")
            if said == "running" and state != "running":
                said = "interrupted"
            elif said == "running":
                seconds = _seconds_since(held["started"])
            rows.append({"name": stage, "state": said, "seconds": seconds, "text": held.get("text", "")})
            if not held:  # none of the later ones has begun
                rows += [
                    {"name": later, "state": "waiting", "seconds": None, "text": ""}
                    for later in STAGES[len(rows) :]
                ]
                break
        return rows

    def _trials(
        self, current: dict[str, Any] | None, progress: dict[str, Any] | None
    ) -> dict[str, int] | None:
        names = ("num_trials", "done", "running", "failed", "pruned")
        if current is None or current["name"] != "search":
            progress = self._run.read(self._run.progress("search"))
        if progress is None or "num_trials" not in progress:
            return None
        counts = {name: progress.get(name, 0) for name in names}
        return counts if current else {**counts, "running": 0}

    def _best(self, current: dict[str, Any] | None, progress: dict[str, Any] | None) -> dict[str, Any] | None:
        search = self._finished.get("search")
        if search is not None:
            best = search["result"]["best"]
            value, parameters = best["validation_accuracy"], best["parameters"]
            return {"trial_id": best["trial_id"], "value": value, "parameters": parameters}
        if current is None or current["name"] != "search":
            progress = self._run.read(self._run.progress("search"))
        if progress is None or progress.get("best_value") is None:
            return None
        return {
            "trial_id": progress["best_trial_id"],
            "value": progress["best_value"],
            "parameters": progress["best_parameters"],
        }


def watch(run: Run, period_s: float = 1.0) -> Iterator[dict[str, Any]]:
    """The run's status now and after each change, until it has ended."""
    reader, last = Watch(run), None
    while True:
        found = reader.read()
        if found != last:
            yield found
            last = found
        if found["state"] in ENDED:
            return
        time.sleep(period_s)


def next_command(run: Run, state: str) -> str:
    """What a person types next about a run in that state."""
    if state in ("submitted", "running"):
        return command("status", run, "--watch")
    if state == "finished":
        return command("pull", run, "--to DIR")
    return command("logs" if state == "failed" else "resume", run)


def render(found: dict[str, Any]) -> RenderableType:
    """A status for the terminal."""
    parts: list[RenderableType] = [Text.from_markup(_headline(found), overflow="fold")]
    if found["error"]:
        parts.append(Text(found["error"], style="red", overflow="fold"))
    table = Table(box=None, pad_edge=False, show_header=False)
    for justify in ("left", "left", "right", "left"):
        table.add_column(justify=justify, overflow="fold")
    for stage in found["stages"]:
        seconds = stage["seconds"]
        colour = _COLOURS.get(stage["state"], "")
        table.add_row(
            stage["name"],
            f"[{colour}]{stage['state']}[/{colour}]",
            "" if seconds is None else duration(seconds),
            escape(found["progress"] or "" if stage["name"] == found["stage"] else stage["text"]),
        )
    parts.append(table)
    parts += [Text(line, overflow="fold") for line in _lines(found)]
    return Group(*parts)


def _headline(found: dict[str, Any]) -> str:
    colour = _COLOURS.get(found["state"], "cyan")
    when = f"since {found['created']}" if found["ended"] is None else f"ended {found['ended']}"
    return f"[bold]{escape(found['run_id'])}[/bold]  [{colour}]{found['state']}[/{colour}]  [dim]{when}[/dim]"


def _lines(found: dict[str, Any]) -> list[str]:
    lines = []
    if found["trials"]:
        counts = found["trials"]
        said = ", ".join(f"{counts[name]} {name}" for name in ("done", "running", "failed", "pruned"))
        lines.append(f"trials   {said} of {counts['num_trials']}")
    if found["best"]:
        best = found["best"]
        values = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in best["parameters"].items()
        )
        lines.append(f"best     {best['value']:.4f} by trial {best['trial_id']}: {values}")
    if found["waiting_for"]:
        lines.append(f"waits    for {found['waiting_for']}")
    lines.append(f"next     {found['next']}")
    return lines


def duration(seconds: float) -> str:
    """Seconds for a person: ``5.1 s``, ``3 min 07 s``, ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _seconds_since(started: str) -> float:
    since = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(started)
    return max(0.0, round(since.total_seconds(), 1))
