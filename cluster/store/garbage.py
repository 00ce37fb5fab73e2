"""Find garbage in a storage: runs, checkpoints of ended runs, caches that no run needs, and leftovers."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from ...errors import InputError, PermanentStorageError, RunNotFoundError, shown
from ...storage.leftovers import StoredFile, delete_leftover, leftovers, stored_files
from ...storage.store import LISTING
from .input_files import INPUTS
from .removal import cut_run, cut_to, delete_folder, delete_run, keys_to_cut
from .runs import LATEST, LOGITS, PIECES, TEACHERS, Run, Storage, epoch_of
from .shared_work import WORK
from .stage_index import INDEX, is_stale

Kept = Literal["best", "artifacts"]

LEFTOVER_AGE_S = 3600.0
_CACHES = (TEACHERS, LOGITS, PIECES, INPUTS)
_KEY = re.compile(rb"[0-9a-f]{32,64}")
_WITH_KEYS = ("job.json", *(f"stages/{stage}.json" for stage in ("data", "teacher", "logits", "student")))


@dataclass(frozen=True)
class Garbage:
    """Something that can be deleted.

    Attributes:
        what: Description for the user, such as ``run a: checkpoints of its trials``.
        num_bytes: Size in bytes.
        delete: Function that deletes it.
    """

    what: str
    num_bytes: int
    delete: Callable[[], None]


@dataclass
class Found:
    """Garbage of a storage, and the reasons why other things that were named, or look like garbage, are kept."""

    garbage: list[Garbage] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def run_sizes(storage: Storage) -> dict[str, int]:
    """Return the size in bytes of everything below each run's key, by run id."""
    sizes: dict[str, int] = defaultdict(int)
    for name, size in storage.store.sizes("runs").items():
        sizes[name.partition("/")[0]] += size
    return dict(sizes)


def find_runs(storage: Storage, run_ids: Collection[str]) -> list[Garbage]:
    """Return runs as garbage, after checking that each can be deleted; damaged ones can.

    Raises:
        RunNotFoundError: There is no such run.
        InputError: A process works on a run, or another run needs it.
    """
    known = {run.id: run for run in storage.candidates()}
    unknown = [run_id for run_id in run_ids if run_id not in known and run_id != LATEST]
    if len(unknown) > 1:
        raise RunNotFoundError(
            f"no runs {', '.join(map(shown, unknown))} in {storage.store}; see `distiltune runs`"
        )
    runs = list(dict.fromkeys(known[each] if each in known else storage.open(each) for each in run_ids))
    for run in runs:
        state = _state(run)
        if state in ("submitted", "running"):
            raise InputError(
                f"RUN: {run.id} is {state}, and nothing was deleted; stop it first: distiltune stop {run.id}"
            )
        need = _needed_by(storage, run, [other for other in known.values() if other not in runs])
        if need is not None:
            raise InputError(f"RUN: {run.id} is needed, and nothing was deleted: {need}")
    sizes = run_sizes(storage)
    return [Garbage(f"run {run.id}", sizes.get(run.id, 0), partial(delete_run, run)) for run in runs]


def _state(run: Run) -> str:
    try:
        return run.state
    except PermanentStorageError:
        return "damaged"


def _needed_by(storage: Storage, run: Run, others: list[Run]) -> str | None:
    """Describe what needs a run, with the remedy; None if nothing does."""
    plan, _, number = run.id.rpartition("-")
    of_plan = number.isdigit() and storage.store.read(f"plans/{plan}.json") is not None
    for other in others:
        if of_plan and other.id.rpartition("-")[0] == plan and _state(other) == "running":
            return f"the plan {plan} is running ({other.id}); stop it first: distiltune stop {other.id}"
        if _state(other) == "finished":
            continue
        job = storage.store.read(other.key("job.json")) or b""
        if f"{run.key()}/".encode() in job:
            return (
                f"run {other.id}, which has not finished, reads files of it; finish or remove that one first"
            )
        started_from = re.search(rb'"warm_start":\s*"([^"]*)"', job)
        if started_from and started_from[1] == run.id.encode() and other.read("former.json") is None:
            return (
                f"run {other.id}, which has not begun yet, is warm-started from it; wait until it has begun"
            )
    return None


def find_garbage(storage: Storage, kept: Kept | None = None, older_than_s: float = 0.0) -> Found:
    """Find files that no run needs, and, on request, files that ended runs can do without.

    Args:
        storage: The storage.
        kept: ``best`` keeps each run's records, report, artifact and best checkpoint, and removes other checkpoints;
            ``artifacts`` keeps only records, logs, report and artifact. A run is cut down only if its end is recorded:
            that of its search for ``best``, that of the whole run for ``artifacts``.
        older_than_s: Minimum time in seconds since the end of a run that is cut down, and since the last change of a
            cached folder.

    Raises:
        StorageError: The storage cannot be read.
    """
    now = time.time()
    found, runs = Found(), storage.candidates()
    cut: set[Run] = {run for run in runs if cut_to(run) == "artifacts"}
    if kept is not None:
        files: dict[str, dict[str, int]] = defaultdict(dict)
        for name, size in storage.store.sizes("runs").items():
            run_id, _, below = name.partition("/")
            files[run_id][below] = size
        for run in runs:
            if _find_cut(run, kept, now - older_than_s, files[run.id], found) and kept == "artifacts":
                cut.add(run)
    before = now - max(older_than_s, LEFTOVER_AGE_S)
    _find_unused_caches(storage, [run for run in runs if run not in cut], before, found)
    _find_stale_entries(storage, before, found)
    _find_dead_claims(storage, now - LEFTOVER_AGE_S, found)
    for key, size in leftovers(storage.store, now - LEFTOVER_AGE_S).items():
        found.garbage.append(
            Garbage(f"unfinished write {key}", size, partial(delete_leftover, storage.store, key))
        )
    return found


def _find_cut(run: Run, kept: Kept, ended_before: float, files: dict[str, int], found: Found) -> bool:
    """Add the files that a run can do without; return whether it can be cut down."""
    keys = keys_to_cut(files, kept)
    if not keys:
        return True
    try:
        state, record = run.state, run.read("run.json") or {}
        searched = run.stage_record("search").get("state") == "finished"
    except PermanentStorageError as error:
        found.kept.append(f"run {run.id} is damaged and not cut down: {error}")
        return False
    if state in ("running", "submitted") or not (state == "finished" or (searched and kept == "best")):
        found.kept.append(
            f"run {run.id} is {state} and not cut down; finish it, or delete it: distiltune rm {run.id}"
        )
        return False
    if epoch_of(record.get("ended") or record["created"]) > ended_before:
        return False
    what = "checkpoints of its trials and students" if kept == "best" else "all but report and artifact"
    found.garbage.append(Garbage(f"run {run.id}: {what}", sum(keys.values()), partial(cut_run, run, kept)))
    return True


def _find_unused_caches(storage: Storage, runs: list[Run], before: float, found: Found) -> None:
    """Add folders of the caches that no run's records name, unless a run may name one later."""
    entries: dict[str, list[StoredFile]] = defaultdict(list)
    for cache in _CACHES:
        for name, file in stored_files(storage.store, cache).items():
            entries[f"{cache}/{name.partition('/')[0].removesuffix(LISTING)}"].append(file)
    if not entries:
        return
    used = _used_keys(storage, runs)
    unused = {
        key: files
        for key, files in entries.items()
        if not key.rpartition("/")[2].startswith(".")
        and key.rpartition("/")[2].encode() not in used
        and max(file.modified for file in files) < before
    }
    blocking = _may_still_use(runs) if unused else None
    if blocking is not None:
        found.kept.append(f"caches are kept: {blocking}")
        return
    for key, files in unused.items():
        size = sum(file.num_bytes for file in files)
        found.garbage.append(Garbage(f"unused {key}", size, partial(delete_folder, storage.store, key)))


def _find_stale_entries(storage: Storage, before: float, found: Found) -> None:
    """Add all entries of the index whose result is gone, as one item of garbage."""
    store = storage.store
    stale = {
        name: file.num_bytes
        for name, file in stored_files(store, INDEX).items()
        if name.endswith(".json") and "/" not in name and file.modified < before and is_stale(store, name)
    }
    if not stale:
        return

    def delete() -> None:
        for name in stale:
            if is_stale(store, name):  # a run may have been entered since
                store.delete(f"{INDEX}/{name}")

    count = f"{len(stale):,} entr{'y' if len(stale) == 1 else 'ies'}"
    found.garbage.append(Garbage(f"{count} of {INDEX} whose results are gone", sum(stale.values()), delete))


def _find_dead_claims(storage: Storage, before: float, found: Found) -> None:
    """Add the claims of killed processes; a live process renews its claim every few seconds."""
    for name, file in stored_files(storage.store, WORK).items():
        if name.endswith(".json") and not name.startswith(".") and file.modified < before:
            key = f"{WORK}/{name}"
            what = f"claim of an ended process on {name.removesuffix('.lease.json')}"
            found.garbage.append(Garbage(what, file.num_bytes, partial(storage.store.delete, key)))


def _used_keys(storage: Storage, runs: list[Run]) -> set[bytes]:
    store, found = storage.store, set()
    records = [run.key(name) for run in runs for name in _WITH_KEYS]
    for key in (*records, *(f"plans/{name}" for name in store.names("plans"))):
        found.update(_KEY.findall(store.read(key) or b""))
    return found


def _may_still_use(runs: list[Run]) -> str | None:
    """Describe a run that may need caches that its records do not name yet; None if there is none."""
    for run in runs:
        try:
            state = run.state if run.began else "finished"  # a run that never began cannot be resumed
            ready = all(run.stage_record(stage).get("state") == "finished" for stage in ("teacher", "logits"))
        except PermanentStorageError:
            state, ready = "damaged", False
        if state != "finished" and not ready:
            return f"run {run.id} is {state} and has not recorded which it needs; finish or remove it first"
    return None
