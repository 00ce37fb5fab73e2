"""Show a remote run like a local one: each stage when it ends, and live progress."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Console

from ..store.runs import Run, command
from .console import ProgressPrinter
from .events import StageEvent
from .status import ENDED, watch


def follow(run: Run, console: Console | None = None, *, summarise: bool = True) -> int:
    """Show a run until it ends; Ctrl-C leaves it running.

    Args:
        run: Run to show.
        console: Console to print on; standard error by default.
        summarise: Whether to print the summary of a finished run on standard output.

    Returns:
        The exit status: 0 for a finished run, 1 for a failed or interrupted one, 130 for a stopped one or
        after Ctrl-C.
    """
    found: dict[str, Any] = {}
    try:
        with ProgressPrinter(console, live=summarise) as printer:
            shown: set[str] = set()
            for found in watch(run):
                _show(found, shown, printer)
    except KeyboardInterrupt:
        typer.echo(f"{run.id} is still running; watch it with: {command('status', run, '--watch')}", err=True)
        return 130
    return _report_end(run, found, summarise)


def _show(found: dict[str, Any], shown: set[str], printer: ProgressPrinter) -> None:
    if found["state"] == "running" and "run" not in shown:
        shown.add("run")
        printer(StageEvent("run", "begun", found["run_id"]))
    for place, stage in enumerate(found["stages"]):
        state, name = stage["state"], stage["name"]
        if state in ("waiting", "running") or name in shown:
            continue
        if stage["reused"] and not _is_past(found, place):  # the stage may run again
            continue
        shown.add(name)
        kind = "reused" if state == "finished" and stage["reused"] else state
        kind = "failed" if kind == "interrupted" else kind
        printer(StageEvent(name, kind, stage["text"], stage["seconds"] or 0.0))
    name, text = found["stage"] or "job", found["progress"] or ""
    if found["waiting_for"] and found["waiting_for"] not in text:
        text = f"waiting for {found['waiting_for']}"
    if found["state"] not in ENDED and (found["stage"] or text):
        printer(StageEvent(name, "progress", text, values=found["completed"] or {}))


def _is_past(found: dict[str, Any], place: int) -> bool:
    """Return whether a later stage has begun since the run was last started."""
    later = found["stages"][place + 1 :]
    return found["state"] == "finished" or any(
        stage["state"] != "waiting" and not stage["reused"] for stage in later
    )


def _report_end(run: Run, found: dict[str, Any], summarise: bool) -> int:
    """Print how a run ended, and return the exit status."""
    from .show import print_summary

    if found["state"] == "finished":
        if summarise:
            print_summary(run)
        return 0
    if found["state"] == "failed":
        typer.echo(f"error: {found['error']}; see: {found['next']}", err=True)
        return 1
    typer.echo(f"{run.id} was {found['state']}; resume with: {found['next']}", err=True)
    return 130 if found["state"] == "stopped" else 1
