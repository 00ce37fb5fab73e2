"""How far a run is, from its records alone: what `status` prints, follows and gives as JSON."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..errors import StorageError
from .runs import STAGES, Run, command

_NOT_YET = "not yet"  # later than every time in ISO 8601
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
    """Reads a run again and again, with few requests; records that will not change are read once."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._created = ""
        self._began = ""  # when the process began that works on it, or did so last
        self._settled: dict[str, dict[str, Any]] = {}
        self._search: dict[str, Any] | None = None

    def read(self) -> dict[str, Any]:
        """The object that ``status --json`` prints."""
        run = self._run
        state = run.state
        self._created = self._created or run.created
        # What it says of an end is that of an earlier try until this one ends.
        record = (run.read("run.json") or {}) if state in ENDED else {}
        records = self._records(state)
        stages = _rows(records, state, self._began)
        current = next((stage["name"] for stage in stages if stage["state"] == "running"), None)
        told = (run.read(run.progress(current)) or {}) if current else {}
        fresh = current is not None and told.get("at", 0.0) >= _epoch(records[current]["started"])
        progress = told if fresh else {}
        search = self._search_progress(current, told)
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
            "trials": _trials(search, fresh and current == "search"),
            "best": _best(search, records.get("search", {}).get("result")),
            "waiting_for": waiting_for,
            "next": next_command(run, state),
        }

    def _records(self, state: str) -> dict[str, dict[str, Any]]:
        """The records of the stages that have begun; a resumed run does some finished ones again."""
        if state in ("submitted", "running") and self._began in ("", _NOT_YET):
            lease = (self._run.read("lease.json") or {}) if state == "running" else {}
            self._began = _iso(lease["process_started"]) if lease else _NOT_YET
        records: dict[str, dict[str, Any]] = {}
        for stage in STAGES:
            held = self._settled.get(stage) or self._run.stage_record(stage)
            if not held:
                break
            records[stage] = held
            if held["started"] >= self._began or state in ENDED:
                earlier = {name: each for name, each in records.items() if each["state"] == "finished"}
                self._settled |= earlier
        return records

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


def watch(run: Run, period_s: float | None = None) -> Iterator[dict[str, Any]]:
    """The run's status now and after each change, until it has ended.

    A storage that goes away meanwhile is waited for, and named as what the run waits for.

    Args:
        run: Which.
        period_s: Between two looks; by default one second, and two where each look is some requests.

    Raises:
        StorageError: It is away from the first.
    """
    reader, last = Watch(run), None
    if period_s is None:
        period_s = 1.0 if run.store.directory is not None else 2.0
    while True:
        try:
            found = reader.read()
        except StorageError as error:
            if last is None:
                raise
            found = {**last, "waiting_for": f"its storage to answer: {reason(error)}"}
        if found != last:
            yield found
            last = found
        if found["state"] in ENDED:
            return
        time.sleep(period_s)


def reason(error: Exception) -> str:
    """Why a storage did not answer; the error itself is worded for who works on a run."""
    return " ".join(str(error.__cause__ or error).split())


def next_command(run: Run, state: str) -> str:
    """What a person types next about a run in that state."""
    if state in ("submitted", "running"):
        return command("status", run, "--watch")
    if state == "finished":
        return command("pull", run, "--to DIR")
    return command("logs" if state == "failed" else "resume", run)


def print_status(found: dict[str, Any], console: Console) -> None:
    """Show a status, and on a line that can be copied what to type next."""
    console.print(render(found))
    print_next(found, console)


def print_next(found: dict[str, Any], console: Console) -> None:
    """Show what to type next; the line is not folded."""
    console.print("next", style="bold", end="  ")
    console.print(found["next"], soft_wrap=True, markup=False)


def print_status(console: Console, found: dict[str, Any]) -> None:
    """Show a status, and what to type next: on one line, however long, so that it can be copied."""
    console.print(render(found))
    print_next(console, found)


def print_next(console: Console, found: dict[str, Any]) -> None:
    """Show what to type next."""
    console.print(Text.assemble(("next", "bold"), "  ", found["next"]), soft_wrap=True)


def render(found: dict[str, Any]) -> RenderableType:
    """A status for the terminal."""
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
    """A status as one plain line, for where nothing can be drawn."""
    parts = [found["state"]]
    if found["stage"] is not None:
        parts.append(" ".join(filter(None, [found["stage"], found["progress"]])))
    if _says_more(found):
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


def age(moment: str) -> str:
    """How long ago a time of a record was: ``12 s``, ``5 min``, ``3 h``, ``12 d``."""
    seconds = _seconds_since(moment)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _headline(found: dict[str, Any]) -> Text:
    if found["state"] in ENDED and found["ended"] is not None:
        when = (
            f"{'last heard of' if found['state'] == 'interrupted' else 'since'} {local_time(found['ended'])}"
        )
    else:
        when = f"{'since' if found['state'] == 'submitted' else 'begun'} {local_time(found['created'])}"
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
        others = ", ".join(f"{counts[name]} {name}" for name in _COUNTS[2:])
        facts["trials"] = f"{counts['done']} of {counts['num_trials']} done, {others}"
    if found["best"]:
        best = found["best"]
        values = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in best["parameters"].items()
        )
        facts["best"] = f"{best['value']:.4f} by trial {best['trial_id']}: {values}"
    if _says_more(found):
        facts["waits for"] = found["waiting_for"]
    return facts


def _rows(records: dict[str, dict[str, Any]], state: str, began: str) -> list[dict[str, Any]]:
    """A row a stage; what began before the stages ahead of it did is of an earlier try."""
    rows = []
    for stage in STAGES:
        held = records.get(stage, {})
        said, seconds, text = held.get("state", "waiting"), held.get("seconds"), held.get("text", "")
        earlier = bool(held) and held["started"] < began
        began = max(began, held.get("started", ""))
        ended_before = said in ("failed", "stopped") and state in ("submitted", "running")
        if ended_before or (earlier and said != "finished"):
            said, seconds, text = "waiting", None, ""
        elif said == "running" and state == "running":
            seconds = _seconds_since(held["started"])
        elif said == "running":
            said = "interrupted"
        rows.append(
            {
                "name": stage,
                "state": said,
                "seconds": seconds,
                "text": text,
                "reused": earlier and said == "finished",
            }
        )
    return rows


def _says_more(found: dict[str, Any]) -> bool:
    """Whether what it waits for is not in the line of its progress already."""
    return bool(found["waiting_for"]) and found["waiting_for"] not in (found["progress"] or "")


def _trials(search: dict[str, Any], searching: bool) -> dict[str, int] | None:
    if "num_trials" not in search:
        return None
    counts = {name: search.get(name, 0) for name in _COUNTS}
    return counts if searching else {**counts, "running": 0}


def _best(search: dict[str, Any], result: dict[str, Any] | None) -> dict[str, Any] | None:
    if result is not None:
        best = result["best"]
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
    return max(0.0, round(time.time() - _epoch(started), 1))


def _epoch(moment: str) -> float:
    return datetime.datetime.fromisoformat(moment).timestamp()
