"""Registry of fast tokenizers: packages that read a tokenizer.json and give its ids in a microsecond or two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

Encode = Callable[[str], list[int]]
"""Maps a text to its ids, special ones included; thread-safe. Its own truncation is not relied on."""


@dataclass(frozen=True)
class FastTokenizer:
    """A package that may tokenize single texts instead of ``tokenizers``, where it gives the same ids.

    Attributes:
        name: Name of the package.
        open: Opens the content of a ``tokenizer.json``, or its path; imports the package only when called. It may
            raise anything for a tokenizer that the package does not support.
    """

    name: str
    open: Callable[[bytes, Path], Encode]

    def version(self) -> str | None:
        """Return the version of the installed package; None where it is not installed."""
        try:
            return metadata.version(self.name)
        except metadata.PackageNotFoundError:
            return None


FAST_TOKENIZERS: dict[str, FastTokenizer] = {}
"""Every registered fast tokenizer by its name, in the order in which they are tried."""


def register(fast: FastTokenizer) -> FastTokenizer:
    """Register a fast tokenizer and return it.

    Raises:
        ValueError: One of that name is registered.
    """
    if fast.name in FAST_TOKENIZERS:
        raise ValueError(f"fast tokenizer {fast.name!r} is already registered; give it another name")
    FAST_TOKENIZERS[fast.name] = fast
    return fast
