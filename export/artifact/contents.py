"""Verify the files of a classifier's folder against its manifest before they are used."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import ArtifactError, cut, shown
from .files import (
    HUB_PREFIX,
    Identity,
    changed_meanwhile,
    hash_regular,
    identity,
    is_folder,
    open_regular,
    read_regular,
)
from .hash_cache import load_hashes, save_hashes
from .manifest import MODEL_DATA_FILE, REQUIRED_FILES, has_manifest, read_manifest


class Contents:
    """A folder whose files are verified, and that detects a file changed between verification and use.

    Files are hashed on disk, not as bytes in memory, so that ONNX Runtime can read the model by its path, which saves
    memory of the model's size. ``check_unchanged`` then verifies that the opened files are those that were hashed.

    Args:
        directory: An artifact, or an exported ONNX variant, which has no manifest.
        verify: Whether to verify the files against the manifest, where there is one.

    Raises:
        ArtifactError: A file is missing, is not a regular file, or does not match the manifest.
    """

    def __init__(self, directory: Path, *, verify: bool = True):
        self.directory = directory
        self._seen: dict[str, Identity] = {}
        if not is_folder(directory):
            raise no_folder(directory)
        if verify and has_manifest(directory):
            files = read_manifest(directory).files
            if MODEL_DATA_FILE not in files and os.path.lexists(directory / MODEL_DATA_FILE):
                raise not_listed(directory, MODEL_DATA_FILE)
            self._seen = check_hashes(directory, files)
        for name in REQUIRED_FILES:
            if name not in self._seen:
                with open_regular(directory / name):
                    pass  # rejects a pipe, on which ONNX Runtime would block when it opens the path

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return a file's content.

        Raises:
            ArtifactError: The file is larger than ``max_bytes``, cannot be read, or changed since it was verified.
        """
        content, seen = read_regular(self.directory / name, max_bytes)
        if seen != self._seen.get(name, seen):
            raise changed_meanwhile(self.directory / name)
        return content

    def check_unchanged(self) -> None:
        """Check that no file changed since it was verified against the manifest.

        Raises:
            ArtifactError: A file was replaced or modified.
        """
        for name, seen in self._seen.items():
            path = self.directory / name
            try:
                now = identity(path.stat())
            except OSError:
                now = None
            if now != seen:
                raise changed_meanwhile(path)


def check_hashes(
    directory: Path, files: Mapping[str, Mapping[str, Any]], *, use_cache: bool = True
) -> dict[str, Identity]:
    """Verify the SHA-256 and size of every file in a manifest.

    Args:
        directory: The artifact.
        files: A manifest's ``files``.
        use_cache: Whether to take the SHA-256 of an unchanged file from the user's cache instead of reading the file.

    Returns:
        The identity of each file while it was verified.

    Raises:
        ArtifactError: A file is missing, cannot be read, or differs.
    """
    seen, new = {}, {}
    known = load_hashes()
    for name, expected in sorted(files.items()):
        path = directory / name
        if not os.path.lexists(path):
            raise ArtifactError(f"{directory}: {name} is missing; pull the artifact again")
        with open_regular(path) as file:
            seen[name] = identity(os.fstat(file.fileno()))
            digest = known.get(seen[name]) if use_cache else None
            if digest is None and seen[name].size == expected["bytes"]:
                digest = new[seen[name]] = hash_regular(file, path)
        if digest != expected["sha256"] or seen[name].size != expected["bytes"]:
            raise ArtifactError(
                f"{directory}: {name} was changed: its SHA-256 or size differs from the manifest; pull the "
                f"artifact again"
            )
    save_hashes(known, new)
    return seen


def no_folder(directory: Path) -> ArtifactError:
    """Return the error for a path that is not a folder; for the name of a repository, it names ``distiltune pull``."""
    given = str(directory)
    scheme = HUB_PREFIX.rstrip("/") + "/"  # a Path has one slash there
    if given.startswith(scheme):
        name = given.removeprefix(scheme)
        return ArtifactError(
            f"{shown(HUB_PREFIX + name, 200)}: an artifact is read from a folder; pull it first: distiltune pull "
            f"{cut(HUB_PREFIX + name, 120)} --to DIR"
        )
    return ArtifactError(f"{shown(given, 200)}: no such folder; give the folder of an artifact")


def not_listed(directory: Path, name: str) -> ArtifactError:
    """Return the error for a file that is not in the manifest."""
    return ArtifactError(
        f"{directory}: {name!r:.60} is not in the manifest; remove it or pull the artifact again"
    )
