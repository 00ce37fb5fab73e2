"""A private cache of SHA-256 by file identity, so that an unchanged file is hashed once."""

from __future__ import annotations

import time
from collections.abc import Mapping

from .files import Identity
from .private_cache import read_lines, write_lines

_FILE = "hashes-1"
_MAX_ENTRIES = 512
# A file that changes twice within one tick of its file system's clock keeps its ctime, so only an older ctime
# proves that the content is the one that was hashed (git's "racily clean" entries).
_SETTLED_NS = 2 * 10**9


def load_hashes() -> dict[Identity, str]:
    """Load the cache; it is empty if it cannot be trusted."""
    try:
        return dict(map(_parse, read_lines(_FILE)))
    except ValueError:
        return {}


def save_hashes(known: Mapping[Identity, str], new: Mapping[Identity, str]) -> None:
    """Add ``new`` to the cache that contained ``known``; a cache that cannot be written is left unchanged."""
    settled = time.time_ns() - _SETTLED_NS
    new = {each: digest for each, digest in new.items() if each.ctime_ns < settled}
    if not new:
        return
    entries = list(({**known, **new}).items())[-_MAX_ENTRIES:]
    write_lines(_FILE, (f"{' '.join(map(str, each))} {digest}" for each, digest in entries))


def _parse(line: str) -> tuple[Identity, str]:
    *numbers, digest = line.split(" ")
    if len(digest) != 64 or len(numbers) != len(Identity._fields):
        raise ValueError(line)
    return Identity(*map(int, numbers)), digest
