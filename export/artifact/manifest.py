"""The manifest of a sealed artifact: its files with their SHA-256, its origin, and its measurements."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ...errors import ArtifactError
from .files import MAX_JSON_BYTES, parse_object, read_regular

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "distiltune.json"
TAKES_PAIRS = "takes_pairs"
"""Key of ``distiltune.json``: true for a classifier of pairs of texts, absent for others."""
MODEL_DATA_FILE = MODEL_FILE + ".data"
CONFIG_FILE = "config.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
PROBES_FILE = "probes.json"
FORMAT_VERSION = 1
REQUIRED_FILES = (MODEL_FILE, TOKENIZER_FILE, SETTINGS_FILE)
"""Files that the runtime reads."""
OPTIONAL_FILES = (MODEL_DATA_FILE, CONFIG_FILE, TOKENIZER_CONFIG_FILE, PROBES_FILE)
"""Weights beside the graph; what transformers, optimum and transformers.js read; what ``verify`` runs."""

_MAX_FILES = 1000
_MAX_NAME_BYTES = 255
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Manifest:
    """Contents, origin and measurements of a sealed artifact.

    Attributes:
        format_version: Version of the folder's layout.
        files: Name → ``{"sha256": hex, "bytes": int}`` of every file except the manifest.
        made_from: Data hash, teacher, hyperparameters, versions; without a fixed schema.
        measurements: The chosen variant's row of the report.
    """

    format_version: int
    files: dict[str, dict[str, Any]]
    made_from: dict[str, Any]
    measurements: dict[str, Any]

    def to_json(self) -> str:
        """Return the content of ``manifest.json``."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def has_manifest(directory: Path) -> bool:
    """Return whether a folder contains an entry with the manifest's name, readable or not.

    Raises:
        ArtifactError: The folder cannot be read.
    """
    try:
        (directory / MANIFEST_FILE).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{str(directory)!r:.200} cannot be read ({error!s:.60}); give the folder of an artifact"
        ) from None
    return True


def read_manifest(directory: Path) -> Manifest:
    """Read and check a folder's manifest.

    Raises:
        ArtifactError: It is missing, or is not a manifest that this version can read.
    """
    path = directory / MANIFEST_FILE
    if not has_manifest(directory):
        raise ArtifactError(f"{directory}: {path.name} is missing; this is not a sealed artifact")
    content = parse_object(read_regular(path, MAX_JSON_BYTES)[0], path)
    version = content.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise ArtifactError(
            f"{path}: format_version is {version!r:.60}, this distiltune reads {FORMAT_VERSION}"
        )
    names = [field.name for field in fields(Manifest)]
    if set(content) != set(names):
        raise ArtifactError(
            f"{path}: not a manifest, its keys are {', '.join(content)!r:.60}; they must be {', '.join(names)}"
        )
    for name in names[1:]:
        if not isinstance(content[name], dict):
            raise ArtifactError(f"{path}: {name} is {content[name]!r:.60}; it must be an object")
    _check_files(path, content["files"])
    return Manifest(**content)


def _check_files(path: Path, files: dict[str, Any]) -> None:
    if len(files) > _MAX_FILES:
        raise ArtifactError(f"{path}: files has {len(files)} entries; at most {_MAX_FILES} are accepted")
    for name, entry in files.items():
        if not _is_plain(name):
            raise ArtifactError(f"{path}: entry {name!r:.60} is not allowed; pull the artifact again")
        if not _is_fingerprint(entry):
            raise ArtifactError(
                f"{path}: entry {name!r:.60} is {entry!r:.60}; it must have sha256 (64 hexadecimal digits) and "
                "bytes (0 or more)"
            )
    for name in REQUIRED_FILES:
        if name not in files:
            raise ArtifactError(f"{path}: files: {name} is not listed; pull the artifact again")


def _is_plain(name: str) -> bool:
    """Return whether a name is a plain file name: one with a directory could make a copy write elsewhere."""
    if name in ("", ".", "..", MANIFEST_FILE) or not name.isprintable() or set(name) & set("/\\:"):
        return False
    return len(name.encode("utf-8", "surrogatepass")) <= _MAX_NAME_BYTES


def _is_fingerprint(entry: Any) -> bool:
    if not isinstance(entry, dict) or set(entry) != {"sha256", "bytes"}:
        return False
    digest, size = entry["sha256"], entry["bytes"]
    return isinstance(digest, str) and bool(_SHA256.fullmatch(digest)) and type(size) is int and size >= 0
