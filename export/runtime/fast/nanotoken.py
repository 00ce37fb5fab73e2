"""Register the package ``nanotoken``, which supports only WordPiece."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from .base import Encode, FastTokenizer, register

_MOST_CACHED = 2**16
"""Maximum number of words that each thread caches; the package's default, up to 2^20, takes 130 MB a thread."""


def _open(content: bytes, path: Path) -> Encode:
    del path
    nanotoken_rs = import_module("nanotoken.nanotoken_rs")
    nanotoken_rs.set_cache_entries(min(_MOST_CACHED, nanotoken_rs.get_cache_entries()))
    encode = nanotoken_rs.WordPieceTokenizer.from_json(content).encode
    return lambda text: encode(text).tolist()


register(FastTokenizer("nanotoken", _open))
