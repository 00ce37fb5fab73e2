"""Delete a run, or cut it down to its most important files, while no other process works on it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ...errors import InputError
from ...storage.store import LISTING, Store
from .lease import Lease
from .runs import Run, now

_CUT = "cut.json"
_LEASE, _LOCK = "lease.json", "lease.json.lock"
_CHECKPOINT = re.compile(r"search/[^/]+/checkpoint_\d{6}(?=/)")
_STUDENTS = ("student", "students")
_KEPT_FOLDERS = ("stages", "report", "artifact", "logs")
_LACKS = {
    "best": "the checkpoints of its trials and of its students",
    "artifacts": "everything but its records, logs, report and artifact",
}


def cut_to(run: Run) -> str | None:
    """Return ``best`` or ``artifacts`` if a run was cut down to that, else None."""
    return (run.read(_CUT) or {}).get("kept")


def check_not_cut(run: Run, wanted: str, *, needs_trials: bool = True) -> None:
    """Reject an operation for which a run that was cut down lacks files.

    Args:
        run: The run.
        wanted: The rejected operation in words, such as ``another trial cannot be selected``.
        needs_trials: Whether the checkpoints of trials are needed, or only that of the best one.

    Raises:
        InputError: The run was cut down; the message names what it lacks, and the remedy.
    """
    record = run.read(_CUT)
    if record is None or (record["kept"] == "best" and not needs_trials):
        return
    raise InputError(
        f"run {run.id}: {wanted}, since {lacks(run)}; start a new run with its values as a warm start: "
        f"distiltune run CONFIG --set search.warm_start={run.id}"
    )


def lacks(run: Run) -> str | None:
    """Describe what a run that was cut down lacks, since when and why; None for a complete run."""
    record = run.read(_CUT)
    if record is None:
        return None
    return (
        f"it lacks {_LACKS[record['kept']]}, which `distiltune gc --keep {record['kept']}` deleted on "
        f"{record['at'][:10]}"
    )


def keys_to_cut(files: Mapping[str, int], kept: str) -> dict[str, int]:
    """Return the folders and files to delete from a run, relative to its key, with their sizes in bytes.

    Args:
        files: Size of each file of the run.
        kept: ``best`` or ``artifacts``.
    """
    found: dict[str, int] = {}
    for name, size in files.items():
        top = name.partition("/")[0].removesuffix(LISTING)
        if kept == "best":
            matched = _CHECKPOINT.match(name)
            key = matched[0] if matched else top if top in _STUDENTS else None
        else:
            is_record = "/" not in name and name.endswith(".json") and not name.endswith(LISTING)
            key = None if is_record or name == _LOCK or top in _KEPT_FOLDERS else top
        if key is not None:
            found[key] = found.get(key, 0) + size
    return found


def cut_run(run: Run, kept: str) -> None:
    """Delete the files that a run can do without, after recording that in the run.

    Raises:
        InputError: A process works on the run.
    """
    with _leased(run):
        keys = keys_to_cut(run.store.sizes(run.key()), kept)
        run.write(_CUT, {"kept": kept, "at": now()})
        for key in keys:
            delete_folder(run.store, run.key(key))


def delete_run(run: Run) -> None:
    """Delete a run, its start record last, so that an interrupted deletion can be repeated.

    Raises:
        InputError: A process works on the run.
    """
    store = run.store
    with _leased(run):
        names = {name.partition("/")[0] for name in store.sizes(run.key())} | set(store.names(run.key()))
        for name in sorted(names - {_LEASE, _LOCK}, key=lambda name: (name == "run.json", name)):
            store.delete(run.key(name))
        if store.directory is not None:
            for path in (store.directory / run.key()).glob(".*"):
                _remove(path)
    if store.directory is not None:
        (store.directory / run.key(_LOCK)).unlink(missing_ok=True)
        with suppress(OSError):  # another process may have started a run of the same id
            (store.directory / run.key()).rmdir()
    else:
        if not store.sizes(run.key()):
            store.delete(run.key())
        shutil.rmtree(store.local(run.key()), ignore_errors=True)


def delete_folder(store: Store, key: str) -> None:
    """Delete a folder with its listing and its copy on this machine."""
    if store.directory is None:
        store.delete(key + LISTING)  # first: without it the folder does not exist
        local = store.local(key)
        shutil.rmtree(local, ignore_errors=True)
        local.with_name(local.name + LISTING).unlink(missing_ok=True)
    store.delete(key)


@contextmanager
def _leased(run: Run) -> Iterator[None]:
    """Hold the lease of a run, whether or not a stop of the run was requested."""
    lease = Lease(run.store, run.key())
    try:
        lease.acquire()
    except InputError as error:
        raise InputError(f"run {run.id}: {error}; stop it first: distiltune stop {run.id}") from None
    try:
        yield
    finally:
        lease.release()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
