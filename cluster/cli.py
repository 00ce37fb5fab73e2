"""The command-line application: registers the commands and maps errors to messages and exit statuses."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from ..errors import DistiltuneError, first_line
from ..storage.environment import remove_process_group
from .commands import artifact as commands_artifact
from .commands import cleaning as commands_cleaning
from .commands import cluster as commands_cluster
from .commands import jobs as commands_jobs
from .commands import run as commands_run
from .commands import watch as commands_watch

_LONG_WORD = re.compile(r"(\S{200})\S+")
app = typer.Typer(
    name="distiltune",
    help="Turn a large text classifier into the smallest and fastest one that keeps its accuracy.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from .. import __version__

        typer.echo(f"distiltune {__version__}")
        raise typer.Exit


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
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handler.setLevel(logging.INFO if verbose else logging.WARNING)
    logger = logging.getLogger("distiltune")
    logger.handlers = [handler]
    logger.setLevel(handler.level)


for _commands in (commands_run, commands_jobs, commands_watch, commands_artifact, commands_cleaning):
    app.add_typer(_commands.app)
app.add_typer(commands_cluster.app)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 (failed run), 2 (bad input) or 130 (Ctrl-C)."""
    given = _verbose_first(sys.argv[1:] if arguments is None else arguments)
    remove_process_group()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # terminals may lack characters
    try:
        status = app(given, prog_name="distiltune", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except TyperException as error:
        return _complain(f"{error.format_message()} (see: distiltune --help)", error.exit_code)
    except (BrokenPipeError, SystemExit):  # typer raises SystemExit on a broken pipe
        _discard_stdout()
        return 0
    except DistiltuneError as error:
        _trace(given)
        return _complain(str(error), error.exit_status)
    except Exception as error:
        _trace(given)
        if isinstance(error, OSError) and _is_of_stdout(error):
            _discard_stdout()
            return _complain(
                f"stdout cannot be written ({error.strerror}); free some space, or redirect it elsewhere", 1
            )
        what = f"{type(error).__name__}: {first_line(error)}"
        return _complain(f"unexpected {what} (distiltune --verbose shows where)", 1)


def _verbose_first(arguments: list[str]) -> list[str]:
    """Move ``--verbose`` to the front, so that it is accepted anywhere before ``--``."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if "--verbose" not in arguments[:end]:
        return arguments
    return ["--verbose", *(each for each in arguments[:end] if each != "--verbose"), *arguments[end:]]


def _discard_stdout() -> None:
    """Discard whatever is still buffered for stdout."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _is_of_stdout(error: OSError) -> bool:
    """Return whether an error was raised by printing; an ``OSError`` of a stream has no file name."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    module = place.tb_frame.f_globals.get("__name__", "") if place else ""
    return error.filename is None and (module == __name__ or module.split(".")[0] in ("typer", "rich"))


def _complain(message: str, status: int) -> int:
    """Print an error on one line, with overlong words truncated, and return the exit status."""
    line = _LONG_WORD.sub(r"\1…", "; ".join(message.splitlines()))
    typer.echo(f"error: {line}", err=True)
    return status


def _trace(given: list[str]) -> None:
    if "--verbose" in given or "-v" in given:
        import traceback

        traceback.print_exc()
