"""Checkpoints that are about to be used: only what is byte for byte what was saved counts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable

from ...storage.retry import retrying
from ...storage.store import Store
from .checkpoints import SavedEpoch, damage_in, saved_epochs

logger = logging.getLogger(__name__)

MODEL_FILES = ("model.safetensors", "config.json")


def damage_of(store: Store, saved: SavedEpoch, names: Collection[str] | None = None) -> str | None:
    """What is wrong with a checkpoint's files, which are read to their ends; None when nothing is.

    Args:
        store: Where it is.
        saved: The checkpoint.
        names: Files to read; all, unless given.

    Raises:
        StorageError: The storage does not answer.
    """

    def operation(name: str) -> str | None:
        with store.filesystem.open_input_file(store.at(f"{saved.key}/{name}")) as file:
            return damage_in(saved.record, name, file)

    for name in saved.record["files"] if names is None else names:
        try:
            damage = retrying(lambda name=name: operation(name), store.location(saved.key), store.retry_s)
        except FileNotFoundError:
            damage = f"{name} is gone"
        if damage:
            return damage
    return None


def model_is_intact(store: Store, key: str) -> bool:
    """Whether a checkpoint's model, which is about to be used, is what was saved; one that is not is logged.

    Args:
        store: Where it is.
        key: The checkpoint.

    Raises:
        StorageError: The storage does not answer.
    """
    saved = [each for each in saved_epochs(store, key.rpartition("/")[0]) if each.key == key]
    damage = damage_of(store, saved[0], MODEL_FILES) if saved else "its record is gone"
    if damage:
        logger.warning("the checkpoint %s is not used: %s", store.location(key), damage)
    return damage is None


def last_intact(
    store: Store, epochs: Iterable[SavedEpoch], say: Callable[[str], None] = logger.warning
) -> SavedEpoch | None:
    """The last epoch whose checkpoint is what was saved; earlier ones are not read.

    Later ones, which are damaged, are deleted.

    Args:
        store: Where they are.
        epochs: The trial's, in any order.
        say: Told of the damaged ones.

    Returns:
        None when there is none.

    Raises:
        StorageError: The storage does not answer.
    """
    for saved in sorted(epochs, key=lambda each: -each.epoch):
        damage = damage_of(store, saved)
        if damage is None:
            return saved
        say(f"the checkpoint of epoch {saved.epoch}, {saved.key}, is not used: {damage}")
        store.delete(saved.key)
    return None
