"""Hands the checkpoint of an epoch to Tune, and again when the storage does not answer."""

from __future__ import annotations

from typing import Any

from ray import tune

from ..errors import StorageError
from ..storage.retry import retrying
from ..storage.store import Store


def number_from(number: int) -> None:
    """Give the trial's next checkpoint this number.

    Tune counts on from what its last snapshot knew, and would write over later checkpoints.
    """
    _tune_storage().current_checkpoint_index = number - 1


def report_checkpoint(metrics: dict[str, Any], checkpoint: tune.Checkpoint, store: Store) -> None:
    """``tune.report``, tried again for ``store.retry_s`` seconds; the checkpoint's copy is Tune's from then on.

    Raises:
        StorageError: The storage did not take the checkpoint all that time.
    """
    storage = _tune_storage()
    number = storage.current_checkpoint_index

    def operation() -> None:
        # Every call takes the next number, one that failed too; the driver counts those that arrived.
        storage.current_checkpoint_index = number
        tune.report(metrics, checkpoint=checkpoint)

    try:
        retrying(operation, str(store), store.retry_s)
    except RuntimeError as error:
        if "cluster storage" not in str(error):
            raise
        raise StorageError(
            f"storage {store} is not the same place on every node (Tune's marker is not there); give a directory "
            "that all nodes share, or an object store; then go on with `distiltune resume RUN`"
        ) from error


def _tune_storage() -> Any:
    """Where Tune will write the trial's next checkpoint; private to Ray, and used nowhere else.

    Nothing public sets or undoes the number. ``test_a_report_that_is_repeated_leaves_no_gap`` fails when this
    changes.
    """
    from ray.train._internal.session import get_session

    session = get_session()
    assert session is not None, "called outside a trial"
    return session.storage
