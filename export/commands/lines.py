"""Read texts that the user gives one per line, in a file or on stdin."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from ...errors import InputError
from ...storage.safe_reading import read_regular

_MAX_FILE_BYTES = 2**28


def lines_of_file(file: Path, option: str) -> list[str]:
    """Return the non-blank lines of a regular file; a pipe is rejected without blocking.

    Args:
        file: Text file in UTF-8, of at most 2**28 bytes.
        option: Command-line option that names it, for messages.

    Raises:
        InputError: The file cannot be read, is not text, or is blank.
    """
    name = f"{option}: {str(file)!r:.200}"
    return _lines(read_content(file, name), name)


def read_content(file: Path, name: str) -> bytes:
    """Return the content of a regular file of texts.

    Args:
        file: A file of at most 2**28 bytes.
        name: Name of the file for messages.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        return read_regular(file, _MAX_FILE_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise InputError(f"{name} cannot be read ({reason}); give a file of texts, one per line") from None


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
    texts = [line.removesuffix("\r") for line in decoded(content, name).split("\n")]
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise InputError(f"{name} contains no text; put one on each line")
    return texts


def decoded(content: bytes, name: str) -> str:
    """Decode UTF-8 without its byte-order mark.

    Raises:
        InputError: It is not UTF-8 text; the message names the first such line.
    """
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{name}, line {number}: byte {content[error.start]:#04x} is not UTF-8; convert it with `iconv -t utf-8`"
        ) from None
    if "\0" in text:
        number = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(
            f"{name}, line {number}: it contains NUL bytes and is not UTF-8 text; convert it with `iconv -t utf-8`"
        )
    return text
