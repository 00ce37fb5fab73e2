"""All cases, from one module for each kind of input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import (
    addresses,
    artifacts,
    checkpoints,
    commands,
    data_files,
    paths,
    run_records,
    specifications,
    storages,
    values,
)
from .case import Case

# Of the cases of a module one in so many is among the fast ones, which `make test` runs; the others are slow.
ONE_IN = {
    commands: 2,
    values: 5,
    specifications: 1,
    paths: 3,
    data_files: 2,
    checkpoints: 3,
    artifacts: 2,
    run_records: 3,
    storages: 4,
    addresses: 2,
}


@dataclass(frozen=True)
class Entry:
    """A case, and whether `make test` runs it."""

    case: Case
    is_fast: bool


def _entries(cases: Sequence[Case], one_in: int) -> list[Entry]:
    return [Entry(case, number % one_in == 0) for number, case in enumerate(cases)]


ENTRIES: tuple[Entry, ...] = tuple(
    entry for module, one_in in ONE_IN.items() for entry in _entries(module.CASES, one_in)
)
CASES: tuple[Case, ...] = tuple(entry.case for entry in ENTRIES)
