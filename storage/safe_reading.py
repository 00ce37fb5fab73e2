"""Read files of unknown origin safely: regular files of bounded size, and JSON without loss."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

from ..errors import shown

_BLOCK = 2**20
_MOST_DIGITS = 4300  # Python's own limit for parsing an integer
_TOKEN = re.compile(r'(?P<text>"(?:[^"\\]|\\.)*")(?P<colon>\s*:)?|[{}]|-?Infinity|NaN|-?\d[\d.eE+-]*')


def read_regular(path: str | Path, most_bytes: int) -> bytes:
    """Return all of a regular file, without waiting for a named pipe or reading a device.

    Args:
        path: The file.
        most_bytes: Largest size that is accepted.

    Raises:
        OSError: It cannot be read, is not a regular file, or is larger; ``strerror`` gives the reason.
        ValueError: The path is not a valid file name.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        # Allocate no more than needed. The extra byte reveals a file that has grown or reports no size (/proc).
        content = file.read(min(size, most_bytes) + 1)
        while len(content) > size and len(content) <= most_bytes and (more := file.read(_BLOCK)):
            content += more
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"it is larger than the limit of {most_bytes:,} bytes")
    return content


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file for reading, without waiting for a named pipe.

    Raises:
        OSError: It cannot be opened or is not a regular file; ``strerror`` gives the reason.
        ValueError: The path is not a valid file name.
    """
    return open(path, "rb", opener=_open_descriptor)


def _open_descriptor(path: str, flags: int) -> int:
    opened = os.open(path, flags | os.O_NONBLOCK)  # so that a named pipe without a writer opens at once, too
    mode = os.fstat(opened).st_mode
    if stat.S_ISREG(mode):
        return opened
    os.close(opened)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory; specify a file")
    raise OSError(errno.EINVAL, "it is not a regular file; save its content in a regular file")


class RefusedJsonError(json.JSONDecodeError):
    """JSON that Python accepts, but that loses data when parsed or contains a value that is not valid JSON."""


class _RepeatedKeyError(ValueError):
    """A key occurs twice in one object."""


def read_json(text: str) -> Any:
    """Parse a JSON document strictly.

    Raises:
        json.JSONDecodeError: It is not JSON.
        RefusedJsonError: It has a key twice in one object, a number that is not allowed (NaN, an infinity, thousands of
            digits), or is nested too deeply; with the position, where there is one.
    """
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise RefusedJsonError("nested too deeply", text, 0) from None
    except _RepeatedKeyError:
        key, place = _repeated_key(text)
        raise RefusedJsonError(f"key {shown(key)} is given twice; keep one", text, place) from None
    except ValueError as error:
        raise RefusedJsonError(str(error), text, _refused_number(text)) from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise _RepeatedKeyError
    return made


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a valid JSON number")


def _parse_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{shown(text)} is too large")
    return number


def _parse_int(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits is too large")
    return int(text)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_keys,
    parse_constant=_reject_constant,
    parse_float=_parse_float,
    parse_int=_parse_int,
)


def _repeated_key(text: str) -> tuple[str, int]:
    """Return the first repeated key of an object, and its position; the text before it is valid JSON."""
    objects: list[set[str]] = []
    for token in _TOKEN.finditer(text):
        if token[0] == "{":
            objects.append(set())
        elif token[0] == "}":
            objects.pop()
        elif token["colon"] is not None:
            key = json.loads(token["text"])
            if key in objects[-1]:
                return key, token.start()
            objects[-1].add(key)
    raise AssertionError("every key is unique")


def _refused_number(text: str) -> int:
    """Return the position of the first number that is not finite; 0 if there is none."""
    for token in _TOKEN.finditer(text):
        word = token[0].lstrip("-")
        if word in ("NaN", "Infinity") or (word[0].isdigit() and not math.isfinite(float(word))):
            return token.start()
    return 0
