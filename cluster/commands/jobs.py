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
    from ..pipeline.reuse.extension import ChangedJob
    from ..store.runs import Run

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
    with _reporting_interrupt("nothing was submitted"):
        submission = jobs.submit(
            config, name, address=address, token_file=token_file, run_id=run_id, report=_printer(as_json)
        )
    return _show(submission, follow, as_json)


@app.command()
def resume(
    run_id: RunArgument,
    overrides: SetOption = None,
    storage: StorageOption = None,
    address: AddressOption = None,
    token_file: TokenFileOption = None,
    follow: FollowOption = False,
    as_json: JsonOption = False,
) -> int:
    """Resume a run that ended early, on its cluster or another; runs of `run` are resumed on this machine.

    With --set search.num_trials or search.budget, a finished search continues with more trials. With another
    search.space or search.sampler, a new run starts that learns from this one's trials.
    """
    from ..jobs import submission as jobs
    from ..pipeline.reuse.extension import changed_job
    from ..pipeline.run_job import stages_again
    from .run import run_here

    run = open_run(run_id, storage)
    change = changed_job(run, jobs.specification(run), overrides) if overrides else None
    submitted = run.read("submission.json")
    name = (run.read("run.json") or {}).get("name", run.id)
    if change is not None and change.kind == "new":
        to = address or (submitted or {}).get("address")
        return _start_new_run(run, change, name, to, token_file, follow=follow, as_json=as_json)
    extends = change is not None and change.kind == "extended"
    has_work = run.state != "finished" or extends or (change is not None and stages_again(run, change.config))
    if address is None and submitted is None and has_work:
        config = jobs.specification(run) if change is None else change.config
        run_here(config, name, run.id, as_json, extends=extends)
        return 0
    with _reporting_interrupt("nothing was submitted"):
        submission = jobs.resume(
            run,
            address=address,
            token_file=token_file,
            report=_printer(as_json),
            config=None if change is None else change.config,
            extends=extends,
        )
    return _show(submission, follow, as_json)


def _start_new_run(
    former: Run,
    change: ChangedJob,
    name: str,
    address: str | None,
    token_file: Path | None,
    *,
    follow: bool,
    as_json: bool,
) -> int:
    """Start a new run with the changed space or sampler, where the former one ran."""
    from ...search.samplers.base import SAMPLERS
    from ..jobs import submission as jobs
    from ..store.runs import name_run
    from .run import run_here

    config, new_id = change.config, name_run(name, None)
    learns = (
        "learns from its trials (search.warm_start)"
        if config.search.warm_start is not None
        else f"does not learn from its trials, since the sampler {SAMPLERS.name_of(type(config.search.sampler))} "
        "learns from no trials"
    )
    typer.echo(
        f"{change.because}: differs from that of run {former.id}, which stays as it is; new run {new_id} {learns}",
        err=True,
    )
    if address is None:
        run_here(config, name, new_id, as_json)
        return 0
    with _reporting_interrupt("nothing was submitted"):
        submission = jobs.submit(
            config, name, address=address, token_file=token_file, run_id=new_id, report=_printer(as_json)
        )
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
    with _reporting_interrupt("the request to stop remains"):
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
        outcome = "submitted" if submission.sent else f"is already {submission.state}; nothing was submitted"
        typer.echo(f"run {run.id} {outcome}")
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
def _reporting_interrupt(what: str) -> Iterator[None]:
    """Convert Ctrl-C to an error that adds ``what``: the state that the interruption leaves."""
    try:
        yield
    except KeyboardInterrupt:
        raise RunInterruptedError(f"interrupted; {what}") from None
