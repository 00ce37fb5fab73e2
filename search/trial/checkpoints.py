"""The checkpoints of a trial in the store, each with a record of its epoch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import PermanentStorageError, first_line
from ...storage.folders import file_sha256
from ...storage.reading import check_key, parse_record
from ...storage.store import Store
from ..trial_record import is_selectable

RECORD_NAME = "epoch.json"
MODEL_FILES = ("model.safetensors", "config.json")
_BLOCK = 2**20
_NAME = re.compile(r"checkpoint_(\d{6})")


@dataclass(frozen=True)
class SavedEpoch:
    """A complete checkpoint of an epoch.

    Attributes:
        key: Its folder in the store.
        record: Record that ``write_epoch`` wrote: ``epoch``, ``step``, ``metrics``, ``files`` with their sizes in
            bytes, ``sha256`` of the same files, and ``seal``, the SHA-256 of all these fields; ``reduced`` if files
            that resuming needs were deleted.
    """

    key: str
    record: dict[str, Any]

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 1."""
        return self.record["epoch"]

    @property
    def can_be_resumed(self) -> bool:
        """Whether training can be resumed from it, or is complete."""
        return not self.record.get("reduced") or self.metrics.get("progress", 0) >= 1

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics that the epoch reported."""
        return self.record["metrics"]


def write_epoch(directory: Path, record: dict[str, Any]) -> None:
    """Write a checkpoint's record: ``epoch``, ``step``, reported ``metrics``, and sizes and hashes of its files."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != RECORD_NAME)
    files, digests = {}, {}
    for path in paths:
        name = path.relative_to(directory).as_posix()
        files[name] = path.stat().st_size
        digests[name] = file_sha256(path)
    # Through JSON, so that the seal is that of the record as it will be parsed.
    whole = json.loads(json.dumps({**record, "files": files, "sha256": digests}))
    text = json.dumps({**whole, "seal": _seal(whole)}, indent=2) + "\n"
    (directory / RECORD_NAME).write_text(text, encoding="utf-8")


def _seal(record: dict[str, Any]) -> str:
    """Return the SHA-256 of a record without its seal, so that a damaged record is detected."""
    bare = {name: value for name, value in record.items() if name != "seal"}
    return hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()


def read_epoch(directory: Path) -> dict[str, Any]:
    """Read the record of a local checkpoint."""
    return json.loads((directory / RECORD_NAME).read_text(encoding="utf-8"))


def checkpoint_key(trial: str, epoch: int) -> str:
    """Return the key of a trial's checkpoint of an epoch."""
    return f"{trial}/checkpoint_{epoch:06}"


def upload_files(store: Store, directory: Path, key: str) -> None:
    """Upload a checkpoint's files; the checkpoint does not exist until its record is uploaded.

    Raises:
        StorageError: The upload failed.
    """
    store.delete(f"{key}/{RECORD_NAME}")  # left from an epoch that is trained again
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_file() and name != RECORD_NAME:
            store.upload(path, f"{key}/{name}")


def upload_record(store: Store, directory: Path, key: str) -> SavedEpoch:
    """Upload the record of a checkpoint whose files are in the store; from then on the checkpoint exists.

    Raises:
        StorageError: The upload failed.
    """
    store.upload(directory / RECORD_NAME, f"{key}/{RECORD_NAME}")
    return SavedEpoch(key, read_epoch(directory))


def saved_epochs(store: Store, trial: str) -> list[SavedEpoch]:
    """Return the complete checkpoints of a trial: those whose files all have the recorded sizes."""
    sizes = store.sizes(trial)
    names = sorted({name.partition("/")[0] for name in sizes})
    found = [_saved(store, f"{trial}/{name}", name, sizes) for name in names if _NAME.fullmatch(name)]
    return [each for each in found if each is not None]


def _saved(store: Store, key: str, name: str, sizes: dict[str, int]) -> SavedEpoch | None:
    content = store.read(f"{key}/{RECORD_NAME}") if f"{name}/{RECORD_NAME}" in sizes else None
    try:
        record = parse_record(content or b"")
        whole = isinstance(record["epoch"], int) and isinstance(record["metrics"], dict)
        whole = whole and all(sizes.get(f"{name}/{file}") == size for file, size in record["files"].items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # truncated, or damaged
        return None
    return SavedEpoch(key, record) if whole and record.get("seal") == _seal(record) else None


def find_checkpoint(
    epochs: Iterable[SavedEpoch], metric: str | None = None, mode: str = "max"
) -> SavedEpoch | None:
    """Return the checkpoint with the best ``metric``, the later of equals; without a metric, the last one.

    Epochs that cannot be selected (see ``is_selectable``) are returned only if there are no others.
    """
    sign = 1 if mode == "max" else -1
    if metric is None:
        return max(epochs, key=lambda each: each.epoch, default=None)
    return max(
        epochs,
        key=lambda each: (is_selectable(each.metrics), sign * each.metrics[metric], each.epoch),
        default=None,
    )


class DamagedCheckpointError(PermanentStorageError):
    """A file of a checkpoint differs from the saved one."""


def download_checkpoint(store: Store, key: str, target: Path, names: Collection[str] | None = None) -> Path:
    """Download a checkpoint to a local folder.

    Args:
        store: Store of the checkpoint.
        key: Key of the checkpoint.
        target: The folder, created if needed.
        names: Files to download; by default all.

    Returns:
        ``target``.

    Raises:
        FileNotFoundError: There is no such checkpoint, or no such file in it.
        DamagedCheckpointError: A file differs from the saved one.
        StorageError: The storage does not respond.
    """
    content = store.read(f"{key}/{RECORD_NAME}")
    if content is None:
        raise FileNotFoundError(f"{store}/{key} does not exist")
    try:
        record = parse_record(content)
        files = dict(record["files"])
        for name in files:
            check_key(name)  # rejects names outside of the checkpoint
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedCheckpointError(
            f"storage {store.location(f'{key}/{RECORD_NAME}')}: is damaged ({first_line(error)}); restore that "
            f"file from a backup"
        ) from None
    for name in files if names is None else names:
        store.download(f"{key}/{name}", target / name)
        with (target / name).open("rb") as file:
            damage = damage_in(record, name, file)
        if damage:
            raise DamagedCheckpointError(
                f"storage {store.location(key)}: {damage}; restore that file from a backup; or resume with "
                f"`distiltune resume RUN`, which trains that trial again"
            )
    if names is None:
        (target / RECORD_NAME).write_bytes(content)
    return target


def damage_in(record: dict[str, Any], name: str, file: BinaryIO) -> str | None:
    """Read a checkpoint's file to its end, and describe its damage; None if it is intact."""
    size, digest = 0, hashlib.sha256()
    while block := file.read(_BLOCK):
        size += len(block)
        digest.update(block)
    if size != record["files"].get(name, size):
        return f"{name} has {size} bytes, but {record['files'][name]} were saved"
    if digest.hexdigest() != record.get("sha256", {}).get(name, digest.hexdigest()):
        return f"{name} is damaged: its SHA-256 differs from the saved one"
    return None


def thinned(
    store: Store, epochs: Iterable[SavedEpoch], metric: str, mode: str, *, ended: bool
) -> list[SavedEpoch]:
    """Delete unneeded files of a trial's complete checkpoints, and return the checkpoints that are left.

    The best checkpoint keeps its model, the last one that can be resumed keeps all of its files, and the last epoch
    keeps its record. Once the trial has ended, the last one keeps only its record, unless it is the best.

    Args:
        store: Store of the checkpoints.
        epochs: The trial's checkpoints.
        metric: Metric by which the best one is selected.
        mode: ``max`` or ``min``.
        ended: Whether the trial will not be resumed.

    Raises:
        StorageError: The storage does not respond.
    """
    ordered, left = sorted(epochs, key=lambda each: each.epoch), []
    best = find_checkpoint(ordered, metric, mode)
    resumed = find_checkpoint(each for each in ordered if each.can_be_resumed)
    for each in ordered:
        is_last = each is ordered[-1]
        if (is_last or each is resumed) and not ended:
            left.append(each)
        elif each is best or is_last:
            left.append(_reduced(store, each, MODEL_FILES if each is best else ()))
        else:
            store.delete(each.key)
    return left


def _reduced(store: Store, saved: SavedEpoch, names: Collection[str]) -> SavedEpoch:
    """Delete all files of a checkpoint except ``names``, after removing them from its record."""
    others = saved.record["files"].keys() - set(names)
    if not others:
        return saved
    kept = {
        part: {name: value for name, value in saved.record[part].items() if name in names}
        for part in ("files", "sha256")
        if part in saved.record
    }
    bare = {name: value for name, value in saved.record.items() if name != "seal"}
    record = {**bare, **kept, "reduced": True}
    record["seal"] = _seal(record)
    store.write(f"{saved.key}/{RECORD_NAME}", (json.dumps(record, indent=2) + "\n").encode())
    for name in others:
        store.delete(f"{saved.key}/{name}")
    return SavedEpoch(saved.key, record)


def thin_out(store: Store, trial: str, metric: str, mode: str, *, ended: bool = True) -> None:
    """Delete unneeded files of a trial's checkpoints in the store, including incomplete ones; see ``thinned``."""
    left = thinned(store, saved_epochs(store, trial), metric, mode, ended=ended)
    delete_checkpoints(store, trial, kept={each.key for each in left})


def delete_checkpoints(store: Store, trial: str, kept: Collection[str] = ()) -> None:
    """Delete a trial's checkpoints, complete or not, except those with the keys ``kept``."""
    for name in store.names(trial):
        if _NAME.fullmatch(name) and f"{trial}/{name}" not in kept:
            store.delete(f"{trial}/{name}")
