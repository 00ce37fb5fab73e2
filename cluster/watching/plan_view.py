"""Output of `plan` on the terminal."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from ..store.runs import Run, Storage, command
from .console import tables


def tried_line(tried: dict[str, Any]) -> str:
    """Describe a tried change on one line."""
    verdict = "kept" if tried["kept"] else "rejected"
    return f"plan: {_change(tried)}: {verdict} ({tried['reason']})"


def print_plan(record: dict[str, Any], storage: str) -> None:
    """Print the table of all changes, and the run that was kept."""
    console = tables()
    table = Table(title=f"plan {record['plan_id']}", title_justify="left")
    table.add_column("change")
    for name in ("validation", "ms", "MB", "cost"):
        table.add_column(name, justify="right")
    table.add_column("")
    for tried in record["tried"]:
        figures = (
            _figure(tried[name], digits)
            for name, digits in (("validation_accuracy", 4), ("latency_ms", 3), ("size_mb", 2), ("cost", 2))
        )
        verdict = f"[green]kept[/green]: {escape(tried['reason'])}"
        if not tried["kept"]:
            verdict = f"rejected: {escape(tried['reason'])}"
        table.add_row(escape(_change(tried)), *figures, verdict)
    console.print(table)
    run = Run(Storage(storage).store, record["run_id"])
    console.print(f"kept: run {run.id}; {command('pull', run, '--to DIR')}", soft_wrap=True)


def _change(tried: dict[str, Any]) -> str:
    return "the unchanged job" if tried["key"] is None else f"{tried['key']} = {tried['value']}"


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
