"""The application of all commands, with their help."""

from __future__ import annotations

import logging
import sys
from functools import cache
from typing import Annotated, Any

import typer
import typer.main
from typer.exceptions import TyperException

from ..errors import DistiltuneError
from .commands import artifact as commands_artifact
from .commands import check as commands_check
from .commands import cleaning as commands_cleaning
from .commands import cluster as commands_cluster
from .commands import evaluate as commands_evaluate
from .commands import jobs as commands_jobs
from .commands import lean as commands_lean
from .commands import run as commands_run
from .commands import watch as commands_watch
from .commands.examples import add_help

app = typer.Typer(
    name="distiltune",
    help="Turn a large text classifier into the smallest and fastest one that keeps its accuracy.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(requested: bool) -> None:
    if requested:
        from .. import __version__

        typer.echo(f"distiltune {__version__}")
        raise typer.Exit


class _StderrHandler(logging.StreamHandler[Any]):
    """Handler that writes to the current ``sys.stderr``: a live display replaces it, to keep lines above its bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        self.stream = sys.stderr
        super().emit(record)


@app.callback()
def _main(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more, and show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handler.setLevel(logging.INFO if verbose else logging.WARNING)
    logger = logging.getLogger("distiltune")
    logger.handlers = [handler]
    logger.setLevel(handler.level)


for _commands, _panel in (
    (commands_run, "Jobs"),
    (commands_check, "Jobs"),
    (commands_jobs, "Jobs"),
    (commands_watch, "Runs"),
    (commands_cleaning, "Runs"),
    (commands_artifact, "Artifacts"),
    (commands_lean, "Artifacts"),
    (commands_evaluate, "Artifacts"),
):
    add_help(_commands.app.registered_commands, _panel)
    app.add_typer(_commands.app)
app.add_typer(commands_cluster.app, rich_help_panel="Clusters")


class UsageError(DistiltuneError):
    """The arguments of a command cannot be used."""


@cache
def command_tree() -> Any:
    """Return the command with its subcommands, built once a process: it takes some 50 ms."""
    return typer.main.get_command(app)


def run_app(arguments: list[str]) -> int:
    """Run a command, and return its exit status.

    Raises:
        UsageError: The arguments cannot be used.
        Exception: What the command raises.
    """
    try:
        status = command_tree()(arguments, prog_name="distiltune", standalone_mode=False)
    except TyperException as error:
        usage = UsageError(f"{error.format_message()} (see: distiltune --help)")
        usage.exit_status = error.exit_code
        raise usage from error
    return status if isinstance(status, int) else 0
