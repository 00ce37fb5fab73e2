"""Commands for runs on a cluster: submit, stop, resume."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import RunInterruptedError
from .options import (
    AddressOption,
    JsonOption,
    RunArgument,
    RunIdOption,
    SetOption,
    SourceArgument,
    StorageOption,
    TokenFileOption,
    echo_json,
    open_run,
)

if TYPE_CHECKING:
    from ...progress import ReportProgress
    from ..jobs.submission import Submission

app = typer.Typer()

FollowOption = Annotated[
    bool, typer.Option("--follow", "-f", help="Show the run until it ends; Ctrl-C leaves it running.")
]


@app.command()
def submit(
    source: SourceArgument = None,
    overrides: SetOption = None,
    storage: StorageOption = None,
    address: AddressOption = None,
    token_file: TokenFileOption = None,
    run_id: RunIdOption = None,
    follow: FollowOption = False,
    as_json: JsonOption = False,
) -> int:
    """Submit a job to a cluster, which first checks that it can run; this machine is not needed afterwards."""
    from ..jobs import submission as jobs
    from ..specification.config import load_config

    config = load_config(source, overrides or [], storage)
    name = Path(source or "quickstart").stem
    with _uninterrupted("nothing was submitted"):
        submission = jobs.submit(
            config, name, address=address, token_file=token_file, run_id=run_id, report=_printer(as_json)
        )
    return _show(submission, follow, as_json)


@app.command()
def resume(
    run_id: RunArgument,
    storage: StorageOption = None,
    address: AddressOption = None,
    token_file: TokenFileOption = None,
    follow: FollowOption = False,
    as_json: JsonOption = False,
) -> int:
    """Resume a run that ended early, on its cluster or another; runs of `run` are resumed on this machine."""
    from ..jobs import submission as jobs
    from .run import run_here

    run = open_run(run_id, storage)
    if address is None and run.state != "finished" and run.read("submission.json") is None:
        name = (run.read("run.json") or {}).get("name", run.id)
        run_here(jobs.specification(run), name, run.id, as_json)
        return 0
    with _uninterrupted("nothing was submitted"):
        submission = jobs.resume(run, address=address, token_file=token_file, report=_printer(as_json))
    return _show(submission, follow, as_json)


@app.command()
def stop(
    run_id: RunArgument,
    storage: StorageOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> int:
    """Stop a run, wherever it runs, and save its search so that `resume` can continue it."""
    from ..jobs import submission as jobs
    from ..store.runs import command

    run = open_run(run_id, storage)
    before = run.state
    with _uninterrupted("the request to stop remains"):
        state = jobs.stop(run, token_file=token_file, report=_printer(as_json))
    if as_json:
        echo_json({"run_id": run.id, "state": state, "stopped": before != state})
    else:
        hint = "" if state == "finished" else f"; resume with: {command('resume', run)}"
        typer.echo(f"run {run.id} {'is' if before != state else 'was already'} {state}{hint}")
    return 0 if state in ("stopped", "finished") else 1


def _show(submission: Submission, follow: bool, as_json: bool) -> int:
    from ..store.removal import lacks
    from ..store.runs import command

    run = submission.run
    commands = {
        "status": command("status", run, "--watch"),
        "logs": command("logs", run, "-f"),
        "pull": command("pull", run, "--to DIR"),
    }
    if as_json:
        echo_json(
            {
                "run_id": run.id,
                "storage": str(run.store),
                "submitted": submission.sent,
                "state": submission.state,
                "commands": commands,
            }
        )
    else:
        said = "submitted" if submission.sent else f"is already {submission.state}; nothing was submitted"
        typer.echo(f"run {run.id} {said}")
        if missing := lacks(run):
            typer.echo(f"  {missing}")
        for command in commands.values():
            typer.echo(f"  {command}")
    if not follow:
        return 0
    from ..watching.follow import follow as follow_run

    return follow_run(run, summarise=not as_json)


def _printer(as_json: bool) -> ReportProgress:
    return lambda progress: None if as_json else typer.echo(f"  {progress.message}", err=True)


@contextmanager
def _uninterrupted(what: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise RunInterruptedError(f"interrupted; {what}") from None
