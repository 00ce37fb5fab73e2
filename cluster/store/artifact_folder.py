"""Find the artifact that a command names: a folder, or a run whose artifact is fetched."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from ...errors import InputError, RunNotFoundError, shown
from ...export.artifact.contents import no_folder
from ...export.artifact.files import HUB_PREFIX, is_folder

STORAGE_VARIABLE = "DISTILTUNE_STORAGE"


def find_artifact(given: str, storage: str | None) -> Path:
    """Return the folder of an artifact.

    A folder of that name takes precedence over a run. Opening a run needs more packages than the runtime.

    Args:
        given: Path of a folder, id of a run, or ``latest``.
        storage: Directory or URL of the runs; None for that of the environment, else the default.

    Raises:
        InputError: ``given`` is empty, the name of a repository, or neither a folder nor a run with an artifact.
    """
    if not given.strip():
        raise InputError(f"DIR: {given!r} given; specify a directory ('.' is this one), or a run")
    if given.startswith(HUB_PREFIX):
        raise no_folder(Path(given))
    if storage is not None and find_spec("pydantic") is not None:
        check_storage(storage, "--storage")
    path = Path(given)
    if "/" in given or is_folder(path):
        return path
    if find_spec("pydantic") is None:
        raise InputError(
            f"DIR: {shown(given)}: no such folder; a run is looked for where all of distiltune is installed: "
            "pip install 'distiltune[cpu]'"
        )
    return _artifact_of_run(given, storage)


def _artifact_of_run(run_id: str, storage: str | None) -> Path:
    from ..specification.resources import StorageConfig
    from .checks import LOOK_S
    from .runs import Storage

    place = os.environ.get(STORAGE_VARIABLE) if storage is None else storage
    if storage is None and place is not None:
        check_storage(place, STORAGE_VARIABLE)
    try:
        run = Storage(StorageConfig().path if place is None else place, retry_s=LOOK_S).open(run_id)
    except RunNotFoundError as error:
        raise RunNotFoundError(f"DIR: {shown(run_id)}: no such folder, and {error}") from error
    if not run.store.has_folder(run.artifact):
        raise InputError(
            f"DIR: run {run.id} is {run.state} and has no artifact yet; see `distiltune show {run.id}`"
        )
    return Path(run.store.fetch(run.artifact))


def check_storage(given: str, name: str) -> None:
    """Check the location of the runs in the same way as the specification does.

    Args:
        given: Directory or URL.
        name: Option or variable that holds it, for the message.

    Raises:
        InputError: It cannot be a storage.
    """
    from pydantic import ValidationError

    from ..specification.faults import described
    from ..specification.resources import StorageConfig

    try:
        StorageConfig(path=given)
    except ValidationError as error:
        fault = described(error, StorageConfig)[0].partition(": ")[2]
        raise InputError(f"{name}: {fault}") from None
