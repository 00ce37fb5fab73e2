"""Pieces of single bytes, with which SentencePiece models spell characters that have no piece."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def is_byte(piece: str, model: Mapping[str, Any]) -> bool:
    """Return whether a piece stands for a byte in a model of ``tokenizer.json``."""
    return bool(model.get("byte_fallback")) and _BYTE.fullmatch(piece) is not None
