"""Commands that write, run and print a job on this machine: init, run, train, plan and config."""

from __future__ import annotations

import shlex
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import InputError, RunInterruptedError
from .options import JsonOption, RunIdOption, SetOption, SourceArgument, StorageOption, echo_json

if TYPE_CHECKING:
    from ..watching.events import StageEvent

app = typer.Typer()


@app.command()
def init(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A file of labelled texts, such as data.csv.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The job's file; default: job.yaml.")
    ] = Path("job.yaml"),
    text: Annotated[
        str | None, typer.Option("--text", metavar="COLUMN", help="Column with the text; default: guessed.")
    ] = None,
    text_pair: Annotated[
        str | None,
        typer.Option(
            "--text-pair",
            metavar="COLUMN",
            help="Column with the second text of pairs; default: guessed, unless --text is given.",
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", metavar="COLUMN", help="Column with the label; default: guessed.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Look at your own data, and write a commented job file for it."""
    from ...storage.folders import write_file
    from ..specification.new_job import new_job
    from ..store.runs import own_name

    if out.exists() and not force:
        raise InputError(f"--out: {out} exists; give another name, or --force to replace it")
    job = new_job(data, out, text=text, label=label, pair=text_pair)
    try:
        write_file(out, job.content)
    except OSError as error:
        raise InputError(f"--out: {out} cannot be written: {error.strerror}; give another place") from error
    for line in job.summary:
        typer.echo(line, err=True)
    typer.echo(f"written: {out}", err=True)
    typer.echo(f"next: {own_name()} run {shlex.quote(str(out))}", err=True)


@app.command()
def run(
    source: SourceArgument = None,
    overrides: SetOption = None,
    storage: StorageOption = None,
    run_id: RunIdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search, distil, quantize, export, benchmark and seal, on this machine or on resources.address."""
    from ..specification.config import load_config

    run_here(load_config(source, overrides or [], storage), source, run_id, as_json)


@app.command()
def train(
    source: SourceArgument = None,
    overrides: SetOption = None,
    storage: StorageOption = None,
    run_id: RunIdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the same job with one trial: the values of the training section, without a search."""
    from ..specification.config import load_config, without_search

    run_here(without_search(load_config(source, overrides or [], storage)), source, run_id, as_json)


def run_here(
    config: Any, source: str | None, run_id: str | None, as_json: bool, *, extends: bool = False
) -> None:
    """Run a job, or extend the search of a run, with progress on stderr and the summary on stdout."""
    from ..pipeline.run_job import run_job
    from ..watching.console import ProgressPrinter
    from ..watching.show import print_summary, summary

    signal.signal(signal.SIGTERM, interrupt)
    try:
        # Ray prints lost nodes on stdout, which is reserved for the result.
        with redirect_stdout(sys.stderr), ProgressPrinter(live=not as_json) as printer:

            def listen(event: StageEvent) -> None:
                if source is None and event.stage == "run":
                    typer.echo("no job given: running the quickstart (your own: distiltune init data.csv)")
                printer(event)

            name = Path(source or "quickstart").stem
            finished = run_job(config, name, run_id=run_id, listener=listen, extends=extends)
    except KeyboardInterrupt as error:
        raise RunInterruptedError(str(error) or "interrupted; nothing was started") from None
    if as_json:
        echo_json(summary(finished))
    else:
        print_summary(finished)


@app.command()
def plan(
    source: SourceArgument = None,
    overrides: SetOption = None,
    storage: StorageOption = None,
    run_id: RunIdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try the changes of the section `plan`, each in its own run; keep those that pass the gate and gain enough."""
    from ..plan.run_plan import run_plan
    from ..specification.config import load_config
    from ..watching.console import ProgressPrinter
    from ..watching.plan_view import print_plan

    given = load_config(source, overrides or [], storage)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        with redirect_stdout(sys.stderr), ProgressPrinter(live=not as_json) as printer:
            record = run_plan(
                given,
                Path(source or "quickstart").stem,
                plan_id=run_id,
                listener=printer,
                report=lambda progress: typer.echo(progress.message, err=True),
            )
    except KeyboardInterrupt as error:
        raise RunInterruptedError(str(error) or "interrupted; nothing was started") from None
    if as_json:
        echo_json(record)
    else:
        print_plan(record, given.storage.path)


@app.command()
def config(
    source: SourceArgument = None,
    overrides: SetOption = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of a specification.")
    ] = False,
    reference: Annotated[
        bool, typer.Option("--reference", help="Print what every key does, as Markdown.")
    ] = False,
    all_keys: Annotated[
        bool, typer.Option("--all", help="Print every key, not only those that matter.")
    ] = False,
) -> None:
    """Print a job as YAML: the keys that differ from their defaults, and those that matter for every job."""
    from ..specification.config import JobConfig, load_config
    from ..specification.printing import as_yaml

    if reference:
        from ..specification.reference import as_markdown

        typer.echo(as_markdown(), nl=False)
        return
    if schema:
        echo_json(JobConfig.model_json_schema())
        return
    typer.echo(as_yaml(load_config(source, overrides or []), all_keys=all_keys), nl=False)


def interrupt(*_: Any) -> None:
    """Turn a signal into SIGINT, on which a search saves its state, unlike on SIGTERM."""
    signal.raise_signal(signal.SIGINT)
