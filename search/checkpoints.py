"""The checkpoint directories of a trial on disk, each with a record of its epoch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

RECORD_NAME = "epoch.json"


def write_epoch(directory: Path, record: dict[str, Any]) -> None:
    """Write what belongs to a checkpoint: ``epoch``, ``step``, ``metrics`` as reported."""
    (directory / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_epoch(directory: Path) -> dict[str, Any]:
    """The record of a checkpoint that ``complete`` accepts."""
    return json.loads((directory / RECORD_NAME).read_text(encoding="utf-8"))


def complete(directory: Path) -> bool:
    """Whether the checkpoint was written to its end: its record reads, its weights have their full size."""
    try:
        read_epoch(directory)
        with safe_open(directory / "model.safetensors", framework="numpy"):
            return (directory / "trainer_state.json").is_file()
    except (OSError, ValueError, SafetensorError):
        return False


def find_checkpoint(directories: Iterable[Path], metric: str | None = None, mode: str = "max") -> Path | None:
    """Complete checkpoint with the best ``metric``, the earlier of equals; without one the last epoch's."""
    found = [directory for directory in directories if complete(directory)]
    if not found:
        return None
    records = {directory: read_epoch(directory) for directory in found}
    if metric is None:
        return max(found, key=lambda directory: records[directory]["epoch"])
    sign = 1 if mode == "max" else -1
    return max(found, key=lambda each: (sign * records[each]["metrics"][metric], -records[each]["epoch"]))


def keep_best_and_last(trial_dir: Path, metric: str, mode: str) -> None:
    """Delete the other checkpoints: what an interrupted search left, and Tune does not know of."""
    found = list(trial_dir.glob("checkpoint_*"))
    kept = {find_checkpoint(found, metric, mode), find_checkpoint(found)}
    for directory in found:
        if directory not in kept:
            shutil.rmtree(directory, ignore_errors=True)
