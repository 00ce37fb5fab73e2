"""Pull an artifact from a repository of a model hub: verified before its folder appears, or nothing."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ....errors import ArtifactError
from ..copying import folder_at, folder_to_make
from ..files import MAX_JSON_BYTES
from ..manifest import MANIFEST_FILE, read_manifest
from ..seal import verify_artifact
from .repository import Repository, hub_client

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_PUSH_AGAIN = "ask for it to be pushed again with `distiltune push`"


def pull_artifact(repository: Repository, target: str | Path) -> Path:
    """Download an artifact to ``target``, which appears only after every hash was verified.

    Only the files of the manifest are downloaded, all of one commit.

    Args:
        repository: The repository; its revision may be a branch, a tag or a commit.
        target: A folder that does not exist or is empty; ``~`` is the user's home.

    Returns:
        ``target``, with ``~`` replaced.

    Raises:
        ArtifactError: The repository holds no artifact, or one that does not match its manifest.
        InputError: There is no such repository or revision, or ``target`` exists or cannot be written.
        HubError: The hub cannot be reached, or denies access.
    """
    target = folder_to_make(target)
    with folder_at(target) as folder, hub_client(repository) as api:
        commit = api.model_info(repository.name, revision=repository.revision).sha
        pinned = Repository(repository.name, commit)
        try:
            _download(api, pinned, folder)
        except ArtifactError as error:
            raise ArtifactError(str(error).replace(str(folder), str(repository))) from error
    return target


def _download(api: HfApi, pinned: Repository, folder: Path) -> None:
    """Download manifest and files, and verify them.

    Raises:
        ArtifactError: The repository holds no artifact, or a file differs from the manifest.
    """
    size = _sizes(api, pinned, [MANIFEST_FILE]).get(MANIFEST_FILE)
    if size is None or size > MAX_JSON_BYTES:
        found = "no manifest.json" if size is None else f"a manifest.json of {size:,} bytes"
        raise ArtifactError(
            f"{folder}: not an artifact of distiltune: the repository has {found}; correct the name"
        )
    _fetch(api, pinned, MANIFEST_FILE, folder)
    files = read_manifest(folder).files
    sizes = _sizes(api, pinned, [*files])
    for name, entry in sorted(files.items()):
        if name not in sizes:
            raise ArtifactError(f"{folder}: {name} is missing, although the manifest lists it; {_PUSH_AGAIN}")
        if sizes[name] != entry["bytes"]:
            raise ArtifactError(
                f"{folder}: {name} has {sizes[name]:,} bytes, but {entry['bytes']:,} according to the manifest; "
                f"{_PUSH_AGAIN}"
            )
    for name in files:
        _fetch(api, pinned, name, folder)
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # of huggingface_hub, about these downloads
    verify_artifact(folder)


def _sizes(api: HfApi, pinned: Repository, names: Sequence[str]) -> dict[str, int]:
    """Return the sizes in bytes of those files that exist."""
    from huggingface_hub.hf_api import RepoFile

    found = api.get_paths_info(pinned.name, [*names], revision=pinned.revision)
    return {each.path: each.size for each in found if isinstance(each, RepoFile)}


def _fetch(api: HfApi, pinned: Repository, name: str, folder: Path) -> None:
    api.hf_hub_download(pinned.name, name, revision=pinned.revision, local_dir=folder)
