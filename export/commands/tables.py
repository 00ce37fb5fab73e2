"""Read texts from CSV, JSON Lines and text files, and write answers as CSV or JSON Lines, with the standard library."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError, shown
from ...storage import safe_reading
from ...storage.folders import write_file
from ...texts import PAIR_COLUMN, TextOrPair, csv_line, is_blank
from .lines import decoded, read_content

_MAX_FIELD = 2**28


def read_texts(path: Path, column: str, pair_column: str | None = None) -> list[TextOrPair]:
    """Return one text or pair for each row of a file, blank ones included.

    Args:
        path: ``.csv`` with a header, ``.jsonl`` of objects or of strings, or ``.txt`` of lines; UTF-8. In a ``.txt``
            file, a tab separates the texts of a pair.
        column: Column of the CSV file, or key of the objects.
        pair_column: Column or key of the second text of each pair; None: texts are single.

    Raises:
        InputError: The file cannot be read, its format is not supported, or a row has no text.
    """
    reader = _READERS.get(path.suffix.lower())
    name = f"--input: {shown(str(path), 200)}"
    if reader is None:
        raise InputError(f"{name} has the suffix {path.suffix!r:.20}; give a {_one_of(_READERS)} file")
    columns = {"--column": column} | ({} if pair_column is None else {"--pair-column": pair_column})
    texts = list(reader(decoded(read_content(path, name), name), columns, name))
    if all(map(is_blank, texts)):
        raise InputError(f"{name} contains no text; give a file with at least one")
    return texts


def _csv_texts(content: str, columns: Mapping[str, str], name: str) -> Iterator[TextOrPair]:
    before = csv.field_size_limit(_MAX_FIELD)
    try:
        rows = csv.reader(io.StringIO(content, newline=""), strict=True)
        header = next(rows, [])
        for option, column in columns.items():
            if header.count(column) != 1:
                found = "twice" if column in header else "not"
                raise InputError(
                    f"{name}: the column {column!r:.60} is {found} in its header ({', '.join(header)!s:.100}); name "
                    f"another with {option}"
                )
        places = [header.index(column) for column in columns.values()]
        for row in rows:
            if len(row) != len(header) and row:
                raise InputError(
                    f"{name}, line {rows.line_num}: {len(row)} fields, but the header has {len(header)}; quote "
                    "texts that contain commas or quotes"
                )
            yield _as_text([row[place] if row else "" for place in places])
    except csv.Error as error:
        raise InputError(
            f"{name}: not valid CSV ({error}); quote texts that contain commas or quotes"
        ) from None
    finally:
        csv.field_size_limit(before)


def _json_texts(content: str, columns: Mapping[str, str], name: str) -> Iterator[TextOrPair]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = safe_reading.read_json(line)
        except ValueError as error:
            raise InputError(
                f"{name}, line {number}: not valid JSON ({error!s:.100}); give one object a line"
            ) from None
        is_single = len(columns) == 1
        parts = []
        for option, column in columns.items():
            is_object = isinstance(value, dict)
            text = value.get(column) if is_object else value
            if not isinstance(text, str) or not (is_single or is_object):
                raise InputError(
                    f"{name}, line {number}: {column} is {shown(text)}; give an object with a string {column!r:.60} "
                    f"({option}){', or a string' if is_single else ''}"
                )
            parts.append(text)
        yield _as_text(parts)


def _plain_texts(content: str, columns: Mapping[str, str], name: str) -> Iterator[TextOrPair]:
    lines = content.split("\n")
    for number, line in enumerate(lines if lines[-1] else lines[:-1], 1):
        text = line.removesuffix("\r")
        yield text if len(columns) == 1 else pair_of_line(text, f"{name}, line {number}")


def pair_of_line(line: str, name: str) -> tuple[str, str]:
    """Return the two texts of a line, which a tab separates.

    Raises:
        InputError: The line has another number of tabs; the message begins with ``name``.
    """
    parts = line.split("\t")
    if len(parts) != 2:
        raise InputError(
            f"{name}: {len(parts) - 1} tabs in {shown(line)}; give two texts with one tab between them"
        )
    return parts[0], parts[1]


def _as_text(parts: Sequence[str]) -> TextOrPair:
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


_READERS: dict[str, Callable[[str, Mapping[str, str], str], Iterator[TextOrPair]]] = {
    ".csv": _csv_texts,
    ".jsonl": _json_texts,
    ".txt": _plain_texts,
}


def check_output(path: Path) -> None:
    """Check the name of a file to write, before anything takes time.

    Raises:
        InputError: Its format is not supported, or its folder does not exist.
    """
    name = f"--output: {shown(str(path), 200)}"
    if path.suffix.lower() not in _WRITERS:
        raise InputError(f"{name} has the suffix {path.suffix!r:.20}; give a {_one_of(_WRITERS)} file")
    try:
        has_folder = path.parent.is_dir()
    except (OSError, ValueError):
        has_folder = False
    if not has_folder:
        raise InputError(f"{name} is in no existing folder; create it, or choose another")


def write_answers(path: Path, answers: Sequence[dict[str, Any]], top_k: int) -> None:
    """Write an atomic file with one answer for each text, in their order.

    Args:
        path: A name that ``check_output`` accepts.
        answers: Objects with ``text`` (and ``text_pair`` for pairs), the fields that ``TextClassifier`` returns, and
            ``blank`` for a blank text.
        top_k: Maximum number of labels in ``top`` of an answer; 1: ``top`` is not read.

    Raises:
        InputError: The file cannot be written.
    """
    content = _WRITERS[path.suffix.lower()](answers, top_k)
    try:
        write_file(path, content)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise InputError(
            f"--output: {shown(str(path), 200)} cannot be written ({reason}); choose another file"
        ) from None


def _as_csv(answers: Sequence[dict[str, Any]], top_k: int) -> str:
    own = list(_columns(answers[0])) if answers else ["label", "score"]
    # The first of the best labels is the answer where that is one label.
    further = range(2 if own[0] == "label" else 1, top_k + 1) if top_k > 1 else range(0)
    texts = ["text", *([PAIR_COLUMN] if answers and PAIR_COLUMN in answers[0] else [])]
    head = [*texts, *own, "blank", *(f"{each}_{n}" for n in further for each in ("label", "score"))]
    lines = [csv_line(head)]
    for answer in answers:
        top = answer.get("top", [])[further.start - 1 : top_k] if further else []
        others = [cell for each in top for cell in (each["label"], each["score"])]
        blank = str(answer.get("blank", False)).lower()
        row = [*(answer[name] for name in texts), *_columns(answer).values(), blank, *others]
        lines.append(csv_line([*row, *[""] * (len(head) - len(row))]))
    return "".join(lines)


def _columns(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the cells of an answer by column; several labels are joined in a cell, and spans are JSON."""
    if "labels" in answer:
        return {
            "labels": ";".join(each["label"] for each in answer["labels"]),
            "scores": ";".join(str(each["score"]) for each in answer["labels"]),
        }
    if "spans" in answer:
        return {"spans": json.dumps(answer["spans"], ensure_ascii=False)}
    if "values" in answer:
        return dict(answer["values"])
    names = ("label", "answer", "score", "start", "end", "value")
    return {name: answer[name] for name in names if name in answer}


def _as_json(answers: Sequence[dict[str, Any]], top_k: int) -> str:
    del top_k
    return "".join(json.dumps(each, ensure_ascii=False, allow_nan=False) + "\n" for each in answers)


_WRITERS: dict[str, Callable[[Sequence[dict[str, Any]], int], str]] = {".csv": _as_csv, ".jsonl": _as_json}


def _one_of(suffixes: dict[str, Any]) -> str:
    *first, last = suffixes
    return f"{', '.join(first)} or {last}"
