"""Commands that show runs: runs, status, logs, show, report, tensorboard."""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import DamagedRecordError, InputError, first_line
from ...storage.safe_reading import read_regular
from .options import JsonOption, RunArgument, StorageOption, echo_json, open_run, open_storage

if TYPE_CHECKING:
    from ..store.runs import Run

app = typer.Typer()

_MOST_REPORT_BYTES = 64 * 2**20
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@app.command("runs")
def list_runs(storage: StorageOption = None, as_json: JsonOption = False) -> None:
    """List every run in the storage, newest first."""
    from ..watching.show import print_runs, run_rows

    opened = open_storage(storage)
    rows = run_rows(opened)
    echo_json(rows) if as_json else print_runs(rows, str(opened.store))


@app.command()
def status(
    run_id: RunArgument,
    keep_watching: Annotated[
        bool, typer.Option("--watch", "-w", help="Continue until the run ends; Ctrl-C leaves it running.")
    ] = False,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a run's progress: stages, trials, the best trial so far, and what it is waiting for."""
    from ..watching.status import StatusReader

    run = open_run(run_id, storage)
    if not keep_watching:
        found = StatusReader(run).read()
        echo_json(found) if as_json else _print(found)
        return
    try:
        _watch_lines(run, as_json) if as_json or not sys.stdout.isatty() else _watch_live(run)
    except KeyboardInterrupt:
        return


def _print(found: dict[str, Any]) -> None:
    from ..watching.console import tables
    from ..watching.status_view import print_status

    print_status(tables(), found)


def _watch_lines(run: Run, as_json: bool) -> None:
    """Print one line for each change: the whole status as JSON, or a short text."""
    from ..watching.status import watch
    from ..watching.status_view import line

    last = None
    for found in watch(run):
        text = json.dumps(found, allow_nan=False) if as_json else line(found)
        if text != last:
            typer.echo(text)
            last = text


def _watch_live(run: Run) -> None:
    from rich.console import Console
    from rich.live import Live

    from ..watching.status import watch
    from ..watching.status_view import print_next, render

    console, found = Console(highlight=False), {}
    with Live(console=console, auto_refresh=False) as live:
        for found in watch(run):
            live.update(render(found), refresh=True)
    print_next(console, found)


@app.command()
def logs(
    run_id: RunArgument,
    keep_following: Annotated[
        bool, typer.Option("--follow", "-f", help="Continue until the run ends; Ctrl-C leaves it running.")
    ] = False,
    trial: Annotated[
        str | None,
        typer.Option("--trial", metavar="ID", help="Log of this trial, by name or number."),
    ] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="STAGE", help="Log of this stage's tasks.")
    ] = None,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a run's log, which is stored with the run and outlives its job and cluster."""
    from ...storage.logs import read_log
    from ..watching.logs import follow_log, log_key
    from ..watching.status import has_ended

    if keep_following and as_json:
        raise InputError(
            "--follow, --json: both given; a growing log is not a single JSON value; omit one of them"
        )
    run = open_run(run_id, storage)
    key = log_key(run, trial, stage)
    if keep_following:
        try:
            for text in follow_log(run, key):
                typer.echo(text, nl=False)
        except KeyboardInterrupt:
            return
        return
    text, _ = read_log(run.store, key)
    if as_json:
        echo_json({"run_id": run.id, "lines": text.splitlines()})
    elif text:
        typer.echo(text, nl=False)
    elif key == run.log and has_ended(run):
        raise DamagedRecordError(
            f"{run.id}: its log ({key}) is missing or damaged; its records: distiltune show {run.id}"
        )
    else:
        typer.echo(f"run {run.id} is {run.state} and has no such log", err=True)


@app.command()
def show(run_id: RunArgument, storage: StorageOption = None, as_json: JsonOption = False) -> None:
    """Show a run's results: its state, best trial, variants and the selected one."""
    from ..watching.show import print_summary, summary

    run = open_run(run_id, storage)
    echo_json(summary(run)) if as_json else print_summary(run)


@app.command()
def report(run_id: RunArgument, storage: StorageOption = None) -> None:
    """Print a run's report as Markdown, and the location of its files."""
    run = open_run(run_id, storage)
    if not run.store.has_folder(run.report):
        raise InputError(
            f"run {run.id} is {run.state} and has no report yet; see `distiltune status {run.id}`"
        )
    folder = run.store.fetch(run.report)
    try:
        text = read_regular(folder / "report.md", _MOST_REPORT_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:
        raise DamagedRecordError(
            f"storage {folder / 'report.md'}: is damaged ({first_line(error)}); restore that file from a backup"
        ) from None
    typer.echo(text)
    typer.echo(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}", err=True)


@app.command()
def tensorboard(
    run_id: RunArgument,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port on 127.0.0.1; 0 selects a free one.")
    ] = 6006,
    storage: StorageOption = None,
) -> None:
    """Serve a run's scalars and HParams with TensorBoard on 127.0.0.1, also while it runs."""
    from ..watching.tensorboard import serve

    for ending in _ENDINGS:
        signal.signal(ending, _end_once)
    run = open_run(run_id, storage)
    serve(run, port, lambda progress: typer.echo(progress.message))


def _end_once(*_: Any) -> None:
    """Raise ``KeyboardInterrupt`` once, and ignore further signals so that the cleanup is not interrupted."""
    for ending in _ENDINGS:
        signal.signal(ending, signal.SIG_IGN)
    raise KeyboardInterrupt
