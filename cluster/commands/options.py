"""Arguments that several commands share, and helpers for them."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import DistiltuneError, InputError
from ..specification.preset_files import preset_names
from ..store.artifact_folder import STORAGE_VARIABLE, check_storage

if TYPE_CHECKING:
    from ..store.runs import Run, Storage


def _usable_storage(context: typer.Context, parameter: typer.CallbackParam, value: str | None) -> str | None:
    """Return the given storage; reject an empty one, which would mean the default or the working directory."""
    # Typer treats an empty environment variable as not given.
    given = os.environ.get(STORAGE_VARIABLE) if value is None else value
    if given is None:
        return None
    source = context.get_parameter_source(str(parameter.name))
    name = STORAGE_VARIABLE if value is None or getattr(source, "name", "") == "ENVIRONMENT" else "--storage"
    check_storage(given, name)
    return value


def _not_empty(parameter: typer.CallbackParam, value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise InputError(f"{parameter.metavar}: {value!r} given; omit it, or specify a file or a preset")
    return value


def _sources(incomplete: str) -> list[str]:
    """Return the job files and presets that complete a word in the shell."""
    files = sorted(path.name for path in Path().glob("*.y*ml"))
    return [name for name in [*files, *preset_names()] if name.startswith(incomplete)]


def complete_runs(incomplete: str) -> list[str]:
    """Return the runs of the default storage that complete a word in the shell."""
    with suppress(DistiltuneError):
        found = open_storage(os.environ.get(STORAGE_VARIABLE)).candidates()
        names = ["latest", *sorted((run.id for run in found), reverse=True)]
        return [name for name in names if name.startswith(incomplete)]
    return []


SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one key of the specification.")
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="DIR|URL",
        envvar=STORAGE_VARIABLE,
        callback=_usable_storage,
        help="Directory or URL (s3://, gs://) of the runs.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout and nothing else.")]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Id of a run, or `latest`.", autocompletion=complete_runs)
]
SourceArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="CONFIG|PRESET",
        callback=_not_empty,
        help=f"A YAML file, or one of the presets {', '.join(preset_names())}; default: quickstart.",
        autocompletion=_sources,
    ),
]
RunIdOption = Annotated[
    str | None, typer.Option("--run-id", help="Id of the run; an existing run with this id is resumed.")
]
ArtifactArgument = Annotated[
    str, typer.Argument(metavar="DIR", help="Directory of an artifact, or a run's id or `latest`.")
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="http://HOST:8265",
        help="Address of the cluster; default: RAY_ADDRESS, else the one that `distiltune cluster up` started here.",
    ),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file", metavar="FILE", help="File with the cluster's token; default: that of this machine."
    ),
]


def open_storage(storage: str | None) -> Storage:
    """Open the given or the default storage, with few retries, since a user is waiting."""
    from ..specification.resources import StorageConfig
    from ..store.checks import LOOK_S
    from ..store.runs import Storage

    return Storage(StorageConfig().path if storage is None else storage, retry_s=LOOK_S)


def open_run(run_id: str, storage: str | None) -> Run:
    """Open a run in the given or the default storage."""
    return open_storage(storage).open(run_id)


def echo_json(value: Any) -> None:
    """Print one JSON value on stdout."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))
