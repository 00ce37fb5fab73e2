"""The command line: run a command, and turn its errors into messages and exit statuses.

Commands of ``export/commands`` run without typer, so that they work where only the runtime is installed.
"""

from __future__ import annotations

import io
import os
import re
import sys
from contextlib import suppress
from importlib.util import find_spec

from ..errors import DistiltuneError, InputError, first_line
from ..export import commands as lean
from ..export.runtime.session.providers import NOT_INSTALLED
from ..storage.environment import remove_process_group

_LONG_WORD = re.compile(r"(\S{200})\S+")
_PRINTERS = ("typer", "rich")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 (failed run), 2 (bad input) or 130 (Ctrl-C)."""
    given = _verbose_first(sys.argv[1:] if arguments is None else arguments)
    remove_process_group()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # terminals may lack characters
    try:
        status = _run(given)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except (BrokenPipeError, SystemExit):  # typer raises SystemExit on a broken pipe
        _discard_stdout()
        return 0
    except DistiltuneError as error:
        _print_traceback(given)
        return _complain(str(error), error.exit_status)
    except Exception as error:
        _print_traceback(given)
        if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
            return _complain(NOT_INSTALLED, InputError.exit_status)
        if isinstance(error, OSError) and _is_of_stdout(error):
            _discard_stdout()
            return _complain(
                f"stdout cannot be written ({error.strerror}); free some space, or redirect it elsewhere", 1
            )
        what = f"{type(error).__name__}: {first_line(error)}"
        return _complain(f"unexpected {what} (distiltune --verbose shows where)", 1)


def _run(given: list[str]) -> int:
    """Run a command; ``--verbose``, if given, is the first argument."""
    words = given[1:] if given[:1] in (["--verbose"], ["-v"]) else given
    command = lean.COMMANDS.get(words[0]) if words else None
    options = words[: words.index("--")] if "--" in words else words
    asks_for_help = "--help" in options or "-h" in options
    if command is not None and not (asks_for_help and find_spec("typer")):
        return _run_lean(command, words[1:])
    if find_spec("typer") is None:
        raise InputError(
            f"{' '.join(words[:1]) or 'help'}: not in this installation, which has {', '.join(lean.COMMANDS)}; "
            "install all of distiltune for the other commands: pip install 'distiltune[cpu]'"
        )
    from .app import run_app

    return run_app(given)


def _run_lean(command: lean.Command, arguments: list[str]) -> int:
    from .store.artifact_folder import find_artifact

    try:
        values = command.parse(arguments)
    except SystemExit:  # of argparse, after its help
        return 0
    try:
        return command.run(values, find_artifact)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)


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
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    module = innermost.tb_frame.f_globals.get("__name__", "") if innermost else ""
    prints = module.split(".")[0] in _PRINTERS or module in (__name__, lean.streams.__name__)
    return error.filename is None and prints


def _complain(message: str, status: int) -> int:
    """Print an error on one line, with overlong words truncated, and return the exit status."""
    line = _LONG_WORD.sub(r"\1…", "; ".join(message.splitlines()))
    if sys.stderr is not None:
        with suppress(OSError):
            sys.stderr.write(f"error: {line}\n")
            sys.stderr.flush()
    return status


def _print_traceback(given: list[str]) -> None:
    if "--verbose" in given or "-v" in given:
        import traceback

        traceback.print_exc()
