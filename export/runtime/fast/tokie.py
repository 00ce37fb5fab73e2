"""Register the package ``tokie``, which supports byte-pair encoding, WordPiece and Unigram."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from .base import Encode, FastTokenizer, register


def _open(content: bytes, path: Path) -> Encode:
    del content
    tokenizer = import_module("tokie").Tokenizer.from_json(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encode = tokenizer.encode
    return lambda text: encode(text).ids


register(FastTokenizer("tokie", _open))
