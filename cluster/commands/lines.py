"""Read texts that the user gives one per line, in a file or on stdin."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from ...errors import InputError
from ...storage.safe_reading import read_regular

_MAX_FILE_BYTES = 2**28


def lines_of_file(file: Path, option: str) -> list[str]:
    """Return the non-blank lines of a regular file; a pipe is rejected without waiting for it.

    Args:
        file: Text file in UTF-8, of at most 2**28 bytes.
        option: Command-line option that names it, for messages.

    Raises:
        InputError: The file cannot be read, is not text, or is blank.
    """
    shown = f"{option}: {str(file)!r:.200}"
    try:
        content = read_regular(file, _MAX_FILE_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise InputError(f"{shown} cannot be read ({reason}); give a file of texts, one per line") from None
    return _lines(content, shown)


def lines_of_stream(stream: BinaryIO, name: str) -> list[str]:
    """Return the non-blank lines of a stream.

    Args:
        stream: Binary stream of text in UTF-8.
        name: Name of the stream for messages.

    Raises:
        InputError: The stream cannot be read, is not text, or is blank.
    """
    try:
        content = stream.read()
    except OSError as error:
        raise InputError(
            f"{name} cannot be read ({error.strerror}); pipe texts to it, one per line"
        ) from None
    return _lines(content, name)


def _lines(content: bytes, name: str) -> list[str]:
    texts = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            text = line.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name}, line {number}: byte {line[error.start]:#04x} is not UTF-8; convert it with `iconv -t utf-8`"
            ) from None
        if "\0" in text:
            raise InputError(
                f"{name}, line {number}: it contains NUL bytes and is not UTF-8 text; convert it with `iconv -t "
                f"utf-8`"
            )
        if text.strip():
            texts.append(text)
    if not texts:
        raise InputError(f"{name} contains no text; put one on each line")
    return texts
