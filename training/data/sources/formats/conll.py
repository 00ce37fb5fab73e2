"""Read CoNLL files: a token and its tag on each line, further columns between them, a blank line after each text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from string import whitespace
from typing import Final

from .....errors import DataError, shown
from ...label_kinds.tag_scheme import is_tag
from ...rows import FaultList, at_blanks
from ..columns import Columns, Table
from ..files import decode, read_bytes

EXTENSIONS: Final = (".conll", ".iob", ".iob2", ".bio")
TOKENS, TAGS = "tokens", "tags"
"""Names of the columns if none are requested."""

_DOCUMENT = "-DOCSTART-"
_COMMENT = re.compile(r"#(\s|$)")
_LINE_END = re.compile(r"\r\n|\n|\r")


def read_conll(path: Path, columns: Columns) -> Table:
    """Read a CoNLL file: the first field of a line is the token, the last one its tag.

    Fields are divided by tabs if a line has any, else by blanks. Lines that begin a document (``-DOCSTART-``) and
    comments (``# …`` whose last field is not a tag) are skipped.

    Args:
        path: The file.
        columns: The columns to read: the column of texts has the lists of tokens, the column of labels those of tags.

    Raises:
        DataError: A line has no tag, there is no text, or another column is requested.
    """
    origin = str(path)
    content = decode(read_bytes(path), origin, "CoNLL")
    names = [columns.text or TOKENS, columns.label or TAGS]
    columns.check(origin, names)
    tokens: list[list[str]] = []
    tags: list[list[str]] = []
    lines: list[int] = []
    faults, is_inside = FaultList(), False
    for number, line in enumerate(_LINE_END.split(content), start=1):
        fields = _fields(line)
        if not fields or fields[0] == _DOCUMENT:
            is_inside = False
        elif _COMMENT.match(line) and not is_tag(fields[-1]):
            continue
        elif len(fields) < 2:
            faults.add(lambda n=number, each=line: f"line {n}: {shown(each)} has no tag")
        else:
            if not is_inside:
                tokens.append([])
                tags.append([])
                lines.append(number)
            is_inside = True
            tokens[-1].append(fields[0])
            tags[-1].append(fields[-1])
    faults.raise_if_any(
        origin,
        "write a token and its tag on each line, with blanks or a tab between, and a blank line after each text",
    )
    if not tokens:
        raise DataError(f"{origin}: has no token; write a token and its tag on each line")

    def column(name: str) -> Sequence[object]:
        return tags if name == names[1] else tokens

    return Table(origin, names, column, lambda i: f"line {lines[i]}")


def _fields(line: str) -> list[str]:
    if "\t" not in line:
        return at_blanks(line)
    return list(filter(None, (field.strip(whitespace) for field in line.split("\t"))))
