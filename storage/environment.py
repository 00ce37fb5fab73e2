"""Set environment variables for the duration of a block of code."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def environment_set(settings: Mapping[str, str | None], *also_restored: str) -> Iterator[None]:
    """Set environment variables for a block, and restore their previous values however it ends.

    Args:
        settings: Name and value; None removes the variable for the block.
        also_restored: Names of variables that the block itself may change.
    """
    before = {name: os.environ.get(name) for name in (*settings, *also_restored)}
    _apply(settings)
    try:
        yield
    finally:
        _apply(before)


def _apply(settings: Mapping[str, str | None]) -> None:
    for name, value in settings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
