"""Find the artifact that a command names: a folder, or a run whose artifact is fetched; and how to try one."""

from __future__ import annotations

import os
import shlex
from importlib.util import find_spec
from pathlib import Path

from ...errors import ArtifactError, InputError, RunNotFoundError, shown
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


def predict_command(program: str, directory: Path, shown_as: str) -> str:
    """Return a command line that tries an artifact: with one text, or with two if it takes pairs.

    Args:
        program: Command of this program, quoted for a shell.
        directory: Folder of the artifact; if its settings cannot be read, one text is shown.
        shown_as: Path of the folder to show.
    """
    from ...export.artifact.manifest import SETTINGS_FILE
    from ...export.runtime.classifier_config import read_config
    from ...export.runtime.tasks import DECODERS

    texts = ["a text"]
    try:
        config = read_config((directory / SETTINGS_FILE).read_bytes(), directory / SETTINGS_FILE)
    except (OSError, ArtifactError):
        config = None
    if config is not None and config.takes_pairs:
        is_question = DECODERS[config.task].of_windows
        texts = (
            ["a question", "the context that answers it"] if is_question else ["a text", "its second text"]
        )
    return f"{program} predict {shlex.join([shown_as, *texts])}"


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
