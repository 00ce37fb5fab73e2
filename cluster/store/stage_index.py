"""The index of finished work: for each key of its inputs, the run that has the result."""

from __future__ import annotations

import logging
from typing import Any

from ...errors import DistiltuneError, InputError, PermanentStorageError
from ...storage.store import Store
from .runs import Run, now

logger = logging.getLogger(__name__)

INDEX = "cache/stages"
"""Folder of the index; its entries name a run, and never hold a result themselves."""


def enter(run: Run, key: str, **more: Any) -> None:
    """Enter a run as the one that has the result of a key, in place of an earlier one.

    Args:
        run: The run, whose result is complete.
        key: Hash of the inputs.
        more: Additional values of the entry, such as ``record``, the name of the result's record in the run.
    """
    run.store.write_json(f"{INDEX}/{key}.json", {"run_id": run.id, "at": now(), **more})


def entry_of(store: Store, key: str) -> tuple[Run, dict[str, Any]] | None:
    """Return the run in the index entry of a key, with the entry; None if there is none or it cannot be read."""
    try:
        entry = store.read_json(f"{INDEX}/{key}.json")
        if entry is None or not isinstance(entry.get("run_id"), str):
            return None
        return Run(store, entry["run_id"]), entry
    except DistiltuneError as error:
        logger.info("the entry %s of the index cannot be used: %s", key, error)
        return None


def write_result(run: Run, name: str, key: str, result: dict[str, Any]) -> None:
    """Write the record of a result, with its key and time, and enter it in the index.

    A run may replace its results, so an entry is valid only while the record has the same key.

    Args:
        run: The run.
        name: Name of the record in the run, such as ``measurements/onnx.json``.
        key: Hash of the inputs.
        result: JSON values.
    """
    run.write(name, {"key": key, "run_id": run.id, "at": now(), "result": result})
    enter(run, key, record=name)


def find_result(store: Store, key: str) -> tuple[Run, dict[str, Any]] | None:
    """Return the run with the result of a key, and the record written by ``write_result``; None if there is none."""
    found = entry_of(store, key)
    if found is None or not isinstance(found[1].get("record"), str):
        return None
    run, entry = found
    try:
        record = run.read(entry["record"])
    except DistiltuneError as error:
        logger.info("the result of run %s cannot be reused: %s", run.id, error)
        return None
    if record is None or record.get("key") != key or not isinstance(record.get("result"), dict):
        return None
    return run, record


def is_stale(store: Store, name: str) -> bool:
    """Return whether an index entry is stale: its run, or the record that it names, is gone or damaged.

    Args:
        store: The store.
        name: File name of the entry.

    Raises:
        StorageError: The storage cannot be read.
    """
    key = name.removesuffix(".json")
    try:
        entry = store.read_json(f"{INDEX}/{name}") or {}
        run = Run(store, str(entry.get("run_id")))
        if not run.exists:
            return True
        return "record" in entry and (run.read(str(entry["record"])) or {}).get("key") != key
    except (PermanentStorageError, InputError):  # damaged, or a name that leads out of the store
        return True
