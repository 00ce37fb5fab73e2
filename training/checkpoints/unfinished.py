"""The state of an unfinished training in a store: kept after each epoch, resumed from, and deleted at the end."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ...errors import PermanentStorageError
from ...storage.folders import new_folder
from ...storage.store import LISTING, Store


@dataclass(frozen=True)
class UnfinishedTraining:
    """A place for the last completed epoch of one training.

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
        """Return the checkpoint of the last completed epoch, on this machine; None if there is none that is whole."""
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


class KeepEpochs(TrainerCallback):
    """Keep each epoch's checkpoint, which the trainer has just saved; must be the last callback that adds files."""

    def __init__(self, unfinished: UnfinishedTraining) -> None:
        self._unfinished = unfinished

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Store the checkpoint, and delete the trainer's own copy."""
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        self._unfinished.keep(folder)
        shutil.rmtree(folder, ignore_errors=True)
