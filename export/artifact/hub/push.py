"""Push an artifact to a repository of a model hub, in one commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....errors import InputError, cut, without_userinfo
from ....storage.temporary import temporary_directory
from ..licences import UNKNOWN, is_non_commercial
from ..manifest import MANIFEST_FILE, OPTIONAL_FILES, REQUIRED_FILES, SETTINGS_FILE
from ..seal import CARD_FILE
from .repository import Repository, hub_client
from .staging import Staged, stage

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

_OF_GIT = {".gitattributes"}  # the hub makes it
_OF_ARTIFACTS = {*REQUIRED_FILES, *OPTIONAL_FILES, CARD_FILE}
_MOST_NAMED = 5


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        url: Page of the repository.
        commit: Commit that holds the artifact.
        num_files: Number of the artifact's files.
        is_new: Whether anything was committed; False where the repository already held the same files.
    """

    url: str
    commit: str
    num_files: int
    is_new: bool


def push_artifact(
    directory: Path,
    repository: Repository,
    *,
    private: bool = False,
    force: bool = False,
    log: Callable[[str], None] = lambda _: None,
) -> Pushed:
    """Push an artifact: the files of its manifest, and no other.

    The hub gets all files in one commit, or none. A repository that does not exist is created, and so is a branch.

    Args:
        directory: The artifact; its hashes are verified first.
        repository: The repository to push to; its revision is a branch.
        private: Create a private repository; an existing one must be private already.
        force: Push to a repository that holds something other than an artifact.
        log: Called with each note for the user before anything is committed.

    Raises:
        ArtifactError: The artifact does not match its manifest.
        InputError: The repository holds something else, is public although ``private`` is set, or there is no token.
        HubError: The hub cannot be reached, denies access, or rejects a request.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    with temporary_directory("push") as folder:
        staged = stage(directory, folder)
        with hub_client(repository, needs_token=True) as api:
            for note in _notes(staged):
                log(note)
            found = _found_or_created(api, repository, private=private)
            present = {each.rfilename for each in found.siblings or ()} - _OF_GIT
            is_artifact = {MANIFEST_FILE, SETTINGS_FILE} <= present
            if present and not is_artifact:
                log(_overwritten(repository, present, staged.names, force=force))
            if not found.private:
                log(f"{repository} is public: everyone can download what is pushed")
            stale = sorted(present & _OF_ARTIFACTS - {*staged.names}) if is_artifact else []
            operations = [
                *(CommitOperationAdd(name, str(folder / name)) for name in staged.names),
                *(CommitOperationDelete(name) for name in stale),
            ]
            made = api.create_commit(
                repository.name,
                operations,
                commit_message=_message(staged.manifest.made_from),
                revision=repository.revision,
                parent_commit=found.sha,
            )
            url = f"{without_userinfo(api.endpoint)}/{repository.name}"
            return Pushed(url, made.oid, len(staged.names), made.oid != found.sha)


def _notes(staged: Staged) -> list[str]:
    """Return notes for the user on the files and the licences."""
    notes = []
    if staged.left_out:
        notes.append(f"not pushed, since the manifest does not list it: {_few(staged.left_out)}")
    if staged.lost_text:
        notes.append("not pushed: the text that was timed, in manifest.json and README.md")
    given = staged.manifest.made_from.get("licences")
    licences: dict[str, Any] = given if isinstance(given, dict) else {}
    unknown = [name for name in ("teacher", "data") if licences.get(name) in (None, UNKNOWN)]
    if unknown:
        keys = " and ".join(f"{name}.licence" for name in unknown)
        notes.append(
            f"warning: the licence of {' and '.join(unknown)} is unknown; find out whether you may publish this model, "
            f"and set {keys} in the job"
        )
    notes.extend(
        f"warning: the licence of the {name}, {licences[name]}, excludes commercial use; the model card says so"
        for name in ("teacher", "data")
        if isinstance(licences.get(name), str) and is_non_commercial(licences[name])
    )
    return notes


def _found_or_created(api: HfApi, repository: Repository, *, private: bool) -> ModelInfo:
    """Return the hub's record of the repository's branch, which is created if it does not exist.

    Raises:
        InputError: It is public although ``private`` is set, or has a ``.gitignore``.
    """
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    name, revision = repository.name, repository.revision
    try:
        found = api.model_info(name)
    except RepositoryNotFoundError:
        api.create_repo(name, private=private or None, exist_ok=True)
        found = api.model_info(name)
    if private and not found.private:
        raise InputError(
            f"--private: {repository} is public already; make it private in its settings on the hub, or omit --private"
        )
    if revision is not None:
        try:
            found = api.model_info(name, revision=revision)
        except RevisionNotFoundError:
            api.create_branch(name, branch=revision, exist_ok=True)
            found = api.model_info(name, revision=revision)
    if any(each.rfilename == ".gitignore" for each in found.siblings or ()):
        raise InputError(
            f"{repository}: it has a .gitignore, which makes the hub drop files from a commit; delete that file there"
        )
    return found


def _overwritten(repository: Repository, present: set[str], names: Sequence[str], *, force: bool) -> str:
    """Describe what a push overwrites and keeps in a repository that is not an artifact.

    Raises:
        InputError: ``force`` is not set.
    """
    overwritten, kept = sorted(present & {*names}), sorted(present - {*names})
    effect = "; ".join(
        f"{verb} {_few(files)}" for verb, files in (("overwrites", overwritten), ("keeps", kept)) if files
    )
    if not force:
        raise InputError(
            f"--to: {repository} exists and is not an artifact of distiltune; specify another name, or --force, which "
            f"{effect}"
        )
    return f"{repository} is not an artifact of distiltune: this push {effect}"


def _few(names: Sequence[str]) -> str:
    """Join the first few file names, and count the rest."""
    shown = ", ".join(cut(f"{name!a}"[1:-1], 60) for name in names[:_MOST_NAMED])
    rest = len(names) - _MOST_NAMED
    return shown + (f" and {rest} more" if rest > 0 else "")


def _message(made_from: dict[str, Any]) -> str:
    """Return the commit's message, which names the run."""
    from .... import __version__

    run_id = made_from.get("run_id")
    of_run = (
        f" of run {cut(' '.join(run_id.split()), 60)}" if isinstance(run_id, str) and run_id.strip() else ""
    )
    return f"Artifact{of_run}, made with distiltune {__version__}"
