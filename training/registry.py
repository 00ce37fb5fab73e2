"""Registries of named entries; importing this module loads no other package, not even pydantic."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Entries of one kind by name, in registration order.

    Args:
        attribute: Attribute of an entry that holds its name.
    """

    def __init__(self, attribute: str = "name") -> None:
        self.attribute = attribute
        self._entries: dict[str, Entry] = {}

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    @property
    def names(self) -> list[str]:
        """Names of the entries."""
        return list(self._entries)

    def name_of(self, entry: Entry) -> str:
        """Return the name under which an entry is registered."""
        return getattr(entry, self.attribute)

    def register(self, entry: Entry) -> Entry:
        """Add an entry and return it; usable as a class decorator.

        Raises:
            ValueError: The name is already registered.
        """
        name = self.name_of(entry)
        if name in self._entries:
            raise ValueError(f"{self.attribute} {name!r} is registered already: {self._entries[name]!r}")
        self._entries[name] = entry
        return entry

    @contextmanager
    def temporarily(self, entry: Entry) -> Iterator[Entry]:
        """Register an entry until the end of the block."""
        before = dict(self._entries)
        try:
            yield self.register(entry)
        finally:
            self._entries = before


def nearest_name(name: str, names: Iterable[str]) -> str:
    """Return a hint for a name that is not registered: the nearest name, or all accepted names."""
    names = list(names)
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]!r}?" if near else f"accepted: {', '.join(names)}"
