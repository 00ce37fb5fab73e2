"""Commands that free space: rm and gc."""

from __future__ import annotations

import re
import shlex
import sys
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import InputError, RunInterruptedError
from .options import JsonOption, StorageOption, echo_json, open_storage

if TYPE_CHECKING:
    from ..store.garbage import Garbage

app = typer.Typer()

_UNITS_S = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGE = re.compile(r"(\d{1,6})([mhdw])", re.ASCII)


class Keep(StrEnum):
    """What `gc --keep` leaves of a run."""

    best = "best"
    artifacts = "artifacts"


YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")]


@app.command()
def rm(
    run_ids: Annotated[list[str], typer.Argument(metavar="RUN", help="Ids of runs, or `latest`.")],
    yes: YesOption = False,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete runs. Files that several runs share stay; `distiltune gc` deletes those that no run needs any more."""
    from ..store.garbage import find_runs

    _delete(find_runs(open_storage(storage), run_ids), [], yes=yes, dry_run=False, as_json=as_json)


@app.command()
def gc(
    keep: Annotated[
        Keep | None,
        typer.Option(
            "--keep",
            help="Also cut ended runs down to this: their best checkpoint, or only report and artifact.",
        ),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="30d", help="Only of runs that ended before (m, h, d, w)."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
    yes: YesOption = False,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete what no run needs: unused teachers, logits and inputs, unfinished writes, directories of killed processes.

    A running run, and what it or another run needs, is never touched.
    """
    from ..session.private_ray import old_directories, remove_old_directory
    from ..store.garbage import LEFTOVER_AGE_S, Garbage, find_garbage

    found = find_garbage(open_storage(storage), keep.value if keep else None, _seconds(older_than))
    garbage = [
        *found.garbage,
        *(
            Garbage(f"temporary directory {path}", size, partial(remove_old_directory, path))
            for path, size in old_directories(LEFTOVER_AGE_S).items()
        ),
    ]
    _delete(garbage, found.kept, yes=yes, dry_run=dry_run, as_json=as_json)


def _delete(garbage: list[Garbage], kept: list[str], *, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Print what is deleted, ask if needed, and delete it."""
    from ..watching.console import bytes_text

    total = sum(each.num_bytes for each in garbage)
    if not as_json:
        for each in garbage:
            typer.echo(f"{bytes_text(each.num_bytes):>10}  {each.what}")
        for reason in kept:
            typer.echo(reason, err=True)
    if garbage and not dry_run:
        if not yes:
            _ask(f"delete {bytes_text(total)}?")
        try:
            for each in garbage:
                each.delete()
        except KeyboardInterrupt:
            raise RunInterruptedError("interrupted; the same command deletes the rest") from None
    if as_json:
        rows = [{"what": each.what, "bytes": each.num_bytes} for each in garbage]
        echo_json({"deleted": not dry_run, "bytes": total, "items": rows, "kept": kept})
    elif not garbage:
        typer.echo("nothing to delete")
    else:
        typer.echo(f"{bytes_text(total)} {'can be freed' if dry_run else 'freed'}")


def _ask(question: str) -> None:
    """Ask on the terminal.

    Raises:
        InputError: The answer is no, or there is no terminal to ask on.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise InputError("--yes: not given, and stdin is not a terminal to ask on; nothing was deleted")
    try:
        agreed = typer.confirm(question, err=True)
    except (KeyboardInterrupt, typer.Abort):  # Ctrl-C or the end of the input
        raise RunInterruptedError("interrupted; nothing was deleted") from None
    if not agreed:
        raise InputError("nothing was deleted")


def _seconds(age: str | None) -> float:
    """Convert an age such as ``30d`` to seconds; no age is 0."""
    if age is None:
        return 0.0
    matched = _AGE.fullmatch(age.strip())
    if matched is None:
        raise InputError(
            f"--older-than: {shlex.quote(age[:60])} given; specify a number and a unit, such as 90m, 12h, 30d or 8w"
        )
    return float(int(matched[1]) * _UNITS_S[matched[2]])
