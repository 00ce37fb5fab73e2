"""The state of an unfinished training in a store: kept after each epoch, read to resume, deleted at the end."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ...errors import PermanentStorageError
from ...storage.folders import new_folder
from ...storage.store import LISTING, Store

_PRECISION = "precision.json"


@dataclass(frozen=True)
class UnfinishedTraining:
    """The place where the last completed epoch of one training is kept.

    Attributes:
        store: The store.
        key: Key of the folder, which belongs to this training alone.
    """

    store: Store
    key: str

    def below(self, name: str) -> UnfinishedTraining:
        """Return the place for one of several trainings."""
        return UnfinishedTraining(self.store, f"{self.key}/{name}")

    def last(self) -> Path | None:
        """Fetch the checkpoint of the last completed epoch to this machine; None if there is no intact one."""
        try:
            return self.store.fetch(self.key)
        except (FileNotFoundError, PermanentStorageError):
            return None

    def keep(self, checkpoint: Path) -> None:
        """Store a checkpoint in place of the previous one.

        Raises:
            StorageError: The store cannot be written.
        """
        with new_folder(self.store.local(self.key)) as folder:
            shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
        self.store.publish(self.key)

    def forget(self) -> None:
        """Delete everything below the key: the training has ended, and its result is stored."""
        local = self.store.local(self.key)
        self.store.delete(self.key + LISTING)
        self.store.delete(self.key)
        shutil.rmtree(local, ignore_errors=True)


def kept_in_bf16(checkpoint: Path | None) -> bool | None:
    """Return whether the training of a checkpoint used bfloat16; None if that is not recorded."""
    if checkpoint is None:
        return None
    try:
        record = json.loads((checkpoint / _PRECISION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return bool(record["bf16"]) if isinstance(record, dict) and "bf16" in record else None


class KeepEpochs(TrainerCallback):
    """Keep each epoch's checkpoint, which the trainer has just saved; must be the last callback that adds files."""

    def __init__(self, unfinished: UnfinishedTraining) -> None:
        self._unfinished = unfinished

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Store the checkpoint, and delete the trainer's own copy."""
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        (folder / _PRECISION).write_text(json.dumps({"bf16": bool(args.bf16)}), encoding="utf-8")
        self._unfinished.keep(folder)
        shutil.rmtree(folder, ignore_errors=True)
