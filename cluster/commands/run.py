"""Commands that do a job here: run, train; and config, which shows what they would do."""

from __future__ import annotations

import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import RunInterruptedError
from .options import JsonOption, RunIdOption, SetOption, SourceArgument, StorageOption, echo_json

app = typer.Typer()


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
    """The same job with one trial: the values of the training section, nothing searched."""
    from ..specification.config import load_config, without_search

    run_here(without_search(load_config(source, overrides or [], storage)), source, run_id, as_json)


def run_here(config: Any, source: str | None, run_id: str | None, as_json: bool) -> None:
    """Do a job with its progress on stderr and its summary on stdout."""
    from ..pipeline.run_job import run_job
    from ..watching.console import ProgressPrinter
    from ..watching.show import print_summary, summary

    signal.signal(signal.SIGTERM, interrupt)
    try:
        # Ray says on stdout that a node was lost; there the result stands, and nothing else.
        with redirect_stdout(sys.stderr), ProgressPrinter() as printer:
            finished = run_job(config, Path(source or "quickstart").stem, run_id=run_id, listener=printer)
    except KeyboardInterrupt as error:
        raise RunInterruptedError(str(error) or "interrupted; nothing was begun") from None
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
    """Try the changes of the section `plan`, each a run of its own; keep those that pay and lose no accuracy."""
    from ..plan.run_plan import run_plan
    from ..specification.config import load_config
    from ..watching.console import ProgressPrinter
    from ..watching.plan_view import print_plan, tried_line

    given = load_config(source, overrides or [], storage)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        with redirect_stdout(sys.stderr), ProgressPrinter() as printer:
            record = run_plan(
                given,
                Path(source or "quickstart").stem,
                plan_id=run_id,
                listener=printer,
                on_tried=lambda tried: typer.echo(tried_line(tried.to_json()), err=True),
            )
    except KeyboardInterrupt as error:
        raise RunInterruptedError(str(error) or "interrupted; nothing was begun") from None
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
    """Print a job as YAML: the keys that differ from their defaults, and those that every job decides."""
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
    """Ctrl-C's way out: a search saves its state on SIGINT, and does not on SIGTERM."""
    signal.raise_signal(signal.SIGINT)
