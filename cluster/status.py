"""How far a run is, from its records alone: what `status` prints, follows and gives as JSON."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..errors import StorageError
from .runs import STAGES, Run, command

_COUNTS = ("num_trials", "done", "running", "failed", "pruned")
ENDED = ("finished", "failed", "stopped", "interrupted")
COLOURS = {
    "finished": "green",
    "running": "cyan",
    "failed": "red",
    "stopped": "yellow",
    "interrupted": "yellow",
    "waiting": "dim",
}


class Watch:
    """Reads a run again and again, with few requests; records of finished stages are read once."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._created = ""
        self._finished: dict[str, dict[str, Any]] = {}
        self._search: dict[str, Any] | None = None

    def read(self) -> dict[str, Any]:
        """The object that ``status --json`` prints."""
        run = self._run
        state = run.state
        self._created = self._created or run.created
        # What it says of an end is that of an earlier try until this one ends.
        record = (run.read("run.json") or {}) if state in ENDED else {}
        stages = self._stages(state)
        current = next((stage["name"] for stage in stages if stage["state"] == "running"), None)
        progress = (run.read(run.progress(current)) or {}) if current else {}
        search = self._search_progress(current, progress)
        waiting_for = "the cluster to start its job" if state == "submitted" else progress.get("waiting_for")
        return {
            "run_id": run.id,
            "state": state,
            "created": self._created,
            "ended": self._ended(state, record),
            "error": record.get("error"),
            "stages": stages,
            "stage": current,
            "progress": progress.get("text"),
            "trials": _trials(search, current),
            "best": _best(search, self._finished.get("search")),
            "waiting_for": waiting_for,
            "next": next_command(run, state),
        }

    def _stages(self, state: str) -> list[dict[str, Any]]:
        rows, begun = [], True
        for stage in STAGES:
            held = self._finished.get(stage) or (self._run.stage_record(stage) if begun else {})
            begun = bool(held)
            if held.get("state") == "finished":
                self._finished[stage] = held
            row = {
                "name": stage,
                "state": held.get("state", "waiting"),
                "seconds": held.get("seconds"),
                "text": held.get("text", ""),
            }
            if row["state"] == "running" and state == "running":
                row["seconds"] = _seconds_since(held["started"])
            elif row["state"] != "finished" and state in ("submitted", "running"):
                row |= {"state": "waiting", "seconds": None}  # its record is of an earlier try
            elif row["state"] == "running":
                row["state"] = "interrupted"
            rows.append(row)
        return rows

    def _search_progress(self, current: str | None, progress: dict[str, Any]) -> dict[str, Any]:
        """What the search told last; read once while another stage runs, since it stands still then."""
        if current == "search":
            self._search = None
            return progress
        if self._search is None:
            self._search = self._run.read(self._run.progress("search")) or {}
        return self._search

    def _ended(self, state: str, record: dict[str, Any]) -> str | None:
        if state != "interrupted" or record.get("state") == state:
            return record.get("ended")
        heard = (self._run.read("lease.json") or {}).get("at")
        return None if heard is None else _iso(heard)


def watch(run: Run, period_s: float = 1.0) -> Iterator[dict[str, Any]]:
    """The run's status now and after each change, until it has ended.

    A storage that goes away meanwhile is waited for, and named as what the run waits for.

    Raises:
        StorageError: It is away from the first.
    """
    reader, last = Watch(run), None
    while True:
        try:
            found = reader.read()
        except StorageError as error:
            if last is None:
                raise
            found = {**last, "waiting_for": f"its storage to answer: {error}"}
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


def render(found: dict[str, Any], *, watching: bool = False) -> RenderableType:
    """A status for the terminal; who watches is not told to."""
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
    facts = _facts(found)
    if not watching or found["state"] in ENDED:
        facts["next"] = found["next"]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, text in facts.items():
        grid.add_row(name, Text(text))
    return Group(*parts, grid)


def line(found: dict[str, Any]) -> str:
    """A status as one plain line, for where nothing can be drawn."""
    parts = [found["state"]]
    if found["stage"] is not None:
        parts.append(" ".join(filter(None, [found["stage"], found["progress"]])))
    if found["waiting_for"] and found["waiting_for"] not in (found["progress"] or ""):
        parts.append(f"waits for {found['waiting_for']}")
    if found["error"]:
        parts.append(found["error"])
    if found["state"] in ENDED:
        parts.append(f"next: {found['next']}")
    return "; ".join(parts)


def local_time(moment: str) -> str:
    """A time of a record as this machine's clock shows it."""
    return f"{datetime.datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M:%S}" if moment else ""


def duration(seconds: float) -> str:
    """Seconds for a person: ``5.1 s``, ``3 min 07 s``, ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _headline(found: dict[str, Any]) -> Text:
    if found["state"] in ENDED and found["ended"] is not None:
        when = (
            f"{'last heard of' if found['state'] == 'interrupted' else 'since'} {local_time(found['ended'])}"
        )
    else:
        when = f"{'submitted' if found['state'] == 'submitted' else 'begun'} {local_time(found['created'])}"
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
        said = ", ".join(f"{counts[name]} {name}" for name in _COUNTS[1:])
        facts["trials"] = f"{said} of {counts['num_trials']}"
    if found["best"]:
        best = found["best"]
        values = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in best["parameters"].items()
        )
        facts["best"] = f"{best['value']:.4f} by trial {best['trial_id']}: {values}"
    if found["waiting_for"]:
        facts["waits for"] = found["waiting_for"]
    return facts


def _trials(search: dict[str, Any], current: str | None) -> dict[str, int] | None:
    if "num_trials" not in search:
        return None
    counts = {name: search.get(name, 0) for name in _COUNTS}
    return counts if current == "search" else {**counts, "running": 0}


def _best(search: dict[str, Any], finished: dict[str, Any] | None) -> dict[str, Any] | None:
    if finished is not None:
        best = finished["result"]["best"]
        return {
            "trial_id": best["trial_id"],
            "value": best["validation_accuracy"],
            "parameters": best["parameters"],
        }
    if search.get("best_value") is None:
        return None
    return {
        "trial_id": search["best_trial_id"],
        "value": search["best_value"],
        "parameters": search["best_parameters"],
    }


def _iso(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


def _seconds_since(started: str) -> float:
    since = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(started)
    return max(0.0, round(since.total_seconds(), 1))
