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

# One in this many cases of a module is fast, so that `make test` runs it; the others are slow.
ONE_IN = {
    commands: 6,
    values: 14,
    specifications: 4,
    paths: 14,
    data_files: 8,
    checkpoints: 12,
    artifacts: 6,
    run_records: 8,
    storages: 8,
    addresses: 4,
}
_GOLDEN = (
    5**0.5 - 1
) / 2  # its multiples modulo 1 are spread evenly, so the selection follows no period of the cases


@dataclass(frozen=True)
class Entry:
    """A case and whether `make test` runs it."""

    case: Case
    is_fast: bool


def _entries(cases: Sequence[Case], one_in: int) -> list[Entry]:
    return [Entry(case, number * _GOLDEN % 1 < 1 / one_in) for number, case in enumerate(cases)]


ENTRIES: tuple[Entry, ...] = tuple(
    entry for module, one_in in ONE_IN.items() for entry in _entries(module.CASES, one_in)
)
CASES: tuple[Case, ...] = tuple(entry.case for entry in ENTRIES)
