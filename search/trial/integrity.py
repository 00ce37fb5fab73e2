"""Verify checkpoints before use: their files must be the saved ones, byte for byte."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable

from ...storage.retry import retrying
from ...storage.store import Store
from .checkpoints import MODEL_FILES, SavedEpoch, damage_in, saved_epochs

logger = logging.getLogger(__name__)


def damage_of(store: Store, saved: SavedEpoch, names: Collection[str] | None = None) -> str | None:
    """Read a checkpoint's files to their ends, and describe the first damage; None if they are intact.

    Args:
        store: Store of the checkpoint.
        saved: The checkpoint.
        names: Files to read; by default all.

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
            damage = f"{name} is missing"
        if damage:
            return damage
    return None


def model_is_intact(store: Store, key: str) -> bool:
    """Return whether a checkpoint's model is intact; log a warning if it is damaged.

    Args:
        store: Store of the checkpoint.
        key: Key of the checkpoint.

    Raises:
        StorageError: The storage does not answer.
    """
    saved = [each for each in saved_epochs(store, key.rpartition("/")[0]) if each.key == key]
    damage = damage_of(store, saved[0], MODEL_FILES) if saved else "its record is missing"
    if damage:
        logger.warning("skipping checkpoint %s: %s", store.location(key), damage)
    return damage is None


def last_intact(
    store: Store, epochs: Iterable[SavedEpoch], log: Callable[[str], None] = logger.warning
) -> SavedEpoch | None:
    """Return the last epoch whose checkpoint is intact and can be resumed; delete later ones, which are damaged.

    Earlier checkpoints are not read. Usually only the last one can be resumed, since ``thinned`` leaves at most the
    model of earlier ones; if it is damaged, the trial starts over.

    Args:
        store: Store of the checkpoints.
        epochs: The trial's epochs, in any order.
        log: Called with a message for each damaged checkpoint.

    Returns:
        The epoch, or None if there is none.

    Raises:
        StorageError: The storage does not answer.
    """
    num_damaged = 0
    for saved in sorted(epochs, key=lambda each: -each.epoch):
        if not saved.can_be_resumed:
            continue
        damage = damage_of(store, saved)
        if damage is None:
            return saved
        log(f"skipping the checkpoint of epoch {saved.epoch}, {saved.key}: {damage}")
        store.delete(saved.key)
        num_damaged += 1
    if num_damaged:
        log("starting again at epoch 1: no intact checkpoint has an optimizer state to resume from")
    return None
