"""Reopen a search that has ended: the same study continues, with more trials or a larger budget."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

from ...storage.store import Store
from ..trial_record import is_trial_name

ENDED = "ended.json"
"""Name of the record of a search that its budget ended; it has ``ended_by`` and ``ended_before``."""
_REOPENED = "reopened.json"
_GENERATOR_STATES = "search_gen_state-*.json"


def reopen(store: Store, experiment: str) -> None:
    """Mark an ended search for continuation; finished trials keep their files.

    Args:
        store: The run store.
        experiment: Key of Tune's folder.

    Raises:
        StorageError: The storage does not respond.
    """
    cut_short = trials_cut_short(store, experiment) or {}
    ended: dict[str, Any] | None = store.read_json(f"{experiment}/{ENDED}")
    if ended is not None:
        known = {name for name in store.names(experiment) if is_trial_name(name)}
        cut_short |= dict.fromkeys(sorted(known - set(ended["ended_before"])), ended["ended_by"])
    store.write_json(f"{experiment}/{_REOPENED}", {"cut_short": cut_short, "pending": True})
    store.delete(f"{experiment}/{ENDED}")


def trials_cut_short(store: Store, experiment: str) -> dict[str, str] | None:
    """Return the trials that a budget ended before the search was reopened, each with the reason.

    Returns:
        The reasons by the names of the trials; None if the search was never reopened.
    """
    record = store.read_json(f"{experiment}/{_REOPENED}")
    return None if record is None else dict(record["cut_short"])


def apply_reopening(store: Store, experiment: str) -> None:
    """If the search was reopened, change Tune's snapshot so that it requests trials again once it is restored.

    Once the searcher has no more suggestions, Tune's generator of trials is marked as finished in its snapshot. The
    snapshot is unpickled, so its files must have passed ``refuse_untrusted``.
    """
    record = store.read_json(f"{experiment}/{_REOPENED}")
    if record is None or not record["pending"]:
        return
    from ray import cloudpickle

    for name in store.names(experiment):
        if fnmatch(name, _GENERATOR_STATES):
            state = {**cloudpickle.loads(store.read(f"{experiment}/{name}") or b""), "finished": False}
            content = cloudpickle.dumps(state)  # pyright: ignore[reportPrivateImportUsage]
            store.write(f"{experiment}/{name}", content)
    store.write_json(f"{experiment}/{_REOPENED}", {**record, "pending": False})
