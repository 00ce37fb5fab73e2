"""Seal, verify and copy artifacts: plain folders whose manifest contains the SHA-256 of every file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from ...errors import ArtifactError
from ...storage.folders import new_folder
from .card import model_card
from .contents import check_hashes, no_folder, not_listed
from .copying import copy_folder
from .files import MAX_JSON_BYTES, hash_regular, is_folder, open_regular, parse_object, read_regular
from .manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    OPTIONAL_FILES,
    REQUIRED_FILES,
    SETTINGS_FILE,
    TAKES_PAIRS,
    Manifest,
    read_manifest,
)

CARD_FILE = "README.md"


def seal_artifact(
    source_dir: str | Path,
    out_dir: str | Path,
    *,
    made_from: dict[str, Any],
    measurements: dict[str, Any],
    session: dict[str, Any] | None = None,
    num_threads: int | None = None,
) -> Path:
    """Seal an exported ONNX variant into ``out_dir``, with a manifest and a model card.

    An existing artifact in ``out_dir`` is replaced, so that an interrupted stage can be repeated.

    Args:
        source_dir: a variant: ``model.onnx``, ``tokenizer.json``, ``distiltune.json``, and those of ``OPTIONAL_FILES``
            that it has; other files are not copied.
        out_dir: the artifact's folder, written atomically.
        made_from: data, teacher, hyperparameters and versions of the variant; JSON values.
        measurements: measurements of the variant; JSON values.
        session: session options that it was measured with, for its ``distiltune.json``.
        num_threads: intra-op threads that it was measured with, for its ``distiltune.json``.

    Returns:
        ``out_dir``.

    Raises:
        ArtifactError: ``source_dir`` lacks a file, or its configuration cannot be read.
    """
    source, target = Path(source_dir), Path(out_dir)
    names = [*REQUIRED_FILES, *(name for name in OPTIONAL_FILES if (source / name).is_file())]
    for name in names:
        if not (source / name).is_file():
            raise ArtifactError(f"{source}: {name} is missing; only an exported ONNX variant can be sealed")
    config = parse_object(read_regular(source / SETTINGS_FILE, MAX_JSON_BYTES)[0], source / SETTINGS_FILE)
    with new_folder(target) as folder:
        for name in names:
            shutil.copyfile(source / name, folder / name)
        measured_with = {"session": session or None, "num_threads": num_threads}
        settings = {name: value for name, value in measured_with.items() if value is not None}
        if settings:
            text = json.dumps(config | settings, indent=2, ensure_ascii=False) + "\n"
            (folder / SETTINGS_FILE).write_text(text, encoding="utf-8")
        task = str(config.get("task", "single_label"))
        pairs = config.get(TAKES_PAIRS, False)
        card = model_card(config.get("labels", []), made_from, measurements, task, takes_pairs=pairs)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        files = {name: fingerprint(folder / name) for name in sorted([*names, CARD_FILE])}
        manifest = Manifest(FORMAT_VERSION, files, made_from, measurements)
        (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
    return target


def verify_artifact(directory: str | Path) -> Manifest:
    """Verify every file of an artifact against its manifest.

    Raises:
        ArtifactError: a file is missing, is not listed, or differs; the message names it.
    """
    directory = Path(directory)
    if not is_folder(directory):
        raise no_folder(directory)
    manifest = read_manifest(directory)
    try:
        present = {entry.name: entry.is_symlink() for entry in os.scandir(directory)}
    except OSError as error:
        raise ArtifactError(
            f"{directory} cannot be read ({error.strerror}); give a folder that you can read"
        ) from None
    for name in sorted(set(present) - {MANIFEST_FILE, *manifest.files}):
        raise not_listed(directory, name)
    for name in sorted(name for name, is_link in present.items() if is_link):
        raise ArtifactError(f"{directory}: {name} is a symbolic link, not a file; pull the artifact again")
    check_hashes(directory, manifest.files, use_cache=False)
    return manifest


def copy_artifact(source: str | Path, target: str | Path) -> Path:
    """Copy a sealed artifact to ``target``, where it appears only after every hash was verified.

    Args:
        source: The artifact.
        target: A folder that does not exist or is empty, outside the artifact; ``~`` is the user's home.

    Returns:
        ``target``, with ``~`` replaced.

    Raises:
        ArtifactError: The artifact or its copy does not match its manifest.
        InputError: ``target`` exists and is not empty, is not outside the artifact, or cannot be written.
    """
    source = Path(source)
    manifest = verify_artifact(source)
    return copy_folder(source, target, [*manifest.files, MANIFEST_FILE], check=verify_artifact)


def fingerprint(path: Path) -> dict[str, Any]:
    """Return a file's entry in a manifest: its SHA-256 and size in bytes."""
    with open_regular(path) as file:
        digest = hash_regular(file, path)
    return {"sha256": digest, "bytes": path.stat().st_size}
