"""Lists and objects that a file holds as strings."""

from __future__ import annotations

import ast
import json
from typing import Any


def literal(value: str) -> Any:
    """Return what a string holds in the syntax of JSON or of Python, as pandas writes lists; None if it is neither."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None
