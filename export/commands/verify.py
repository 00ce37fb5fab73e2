"""``distiltune verify``: check an artifact's files, and whether it gives the same answers on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import ArtifactError, RunFailedError, listed
from .arguments import Command, OpenArtifact, Parameter
from .predict import AS_JSON, DIRECTORY, STORAGE
from .streams import echo, quiet_panics

_MOST_CHANGED = 1000  # far more than an artifact has probes


def _run(values: dict[str, Any], open_artifact: OpenArtifact) -> int:
    """Verify the hashes, run the probes, and print what was found."""
    from ..artifact.manifest import PROBES_FILE, read_manifest
    from ..runtime.probes import run_probes

    directory = open_artifact(values["directory"], values["storage"])
    files = read_manifest(directory).files
    _verify_files(directory, files)
    found: dict[str, Any] = {"num_files": len(files), "num_probes": 0}
    if PROBES_FILE in files:
        with quiet_panics():
            found |= run_probes(directory)
    if values["as_json"]:
        echo(json.dumps(found, indent=2, allow_nan=False))
    else:
        echo(f"{found['num_files']} files match the manifest")
        echo(_about_probes(found))
    if found.get("num_changed", 0) > values["max_changed"]:
        raise RunFailedError(
            f"{found['num_changed']} of {found['num_probes']} probes have another answer on this machine, more than "
            f"--max-changed {values['max_changed']}; measure the artifact here with `distiltune evaluate` before use"
        )
    return 0


def _verify_files(directory: Path, files: dict[str, dict[str, Any]]) -> None:
    """Verify every file, and name all that differ.

    Raises:
        RunFailedError: A file differs, is missing, or is not listed.
    """
    from ..artifact.contents import check_hashes
    from ..artifact.seal import verify_artifact

    faults = []
    for name, entry in sorted(files.items()):
        try:
            check_hashes(directory, {name: entry}, use_cache=False)
        except ArtifactError as error:
            faults.append(str(error))
    if faults:
        raise RunFailedError(listed(faults))
    try:
        verify_artifact(directory)
    except ArtifactError as error:  # a file that is not listed, or a link
        raise RunFailedError(str(error)) from error


def _about_probes(found: dict[str, Any]) -> str:
    if not found["num_probes"]:
        return "the artifact has no probes"
    return (
        f"{found['num_probes']} probes: {found['num_changed']} answers changed, logits within "
        f"{found['max_abs_diff']:.2g} of those at its export"
    )


VERIFY = Command(
    "verify",
    "Verify an artifact's hashes, and run its probes on this machine; status 1 if something differs.",
    (
        DIRECTORY,
        Parameter(
            "max_changed",
            "Number of probes that may have another answer.",
            "N",
            "--max-changed",
            int,
            0,
            most=_MOST_CHANGED,
        ),
        AS_JSON,
        STORAGE,
    ),
    _run,
)
