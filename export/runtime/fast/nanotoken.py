"""The package ``nanotoken``: WordPiece alone, exact by its own tests."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from .base import Encode, FastTokenizer, register

_MOST_CACHED = 2**16
"""Words that each thread of the process remembers; by default up to 2^20, which take 130 MB a thread."""


def _open(content: bytes, path: Path) -> Encode:
    del path
    nanotoken_rs = import_module("nanotoken.nanotoken_rs")
    nanotoken_rs.set_cache_entries(min(_MOST_CACHED, nanotoken_rs.get_cache_entries()))
    encode = nanotoken_rs.WordPieceTokenizer.from_json(content).encode
    return lambda text: encode(text).tolist()


register(FastTokenizer("nanotoken", _open))
