"""Read texts from CSV, JSON Lines and text files, and write answers as CSV or JSON Lines, with the standard library."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError, shown
from ...storage import safe_reading
from ...storage.folders import write_file
from .lines import decoded, read_content

_MAX_FIELD = 2**28


def read_texts(path: Path, column: str) -> list[str]:
    """Return one text for each row of a file, blank ones included.

    Args:
        path: ``.csv`` with a header, ``.jsonl`` of objects or of strings, or ``.txt`` of lines; UTF-8.
        column: Column of the CSV file, or key of the objects.

    Raises:
        InputError: The file cannot be read, its format is another one, or a row has no text.
    """
    reader = _READERS.get(path.suffix.lower())
    name = f"--input: {shown(str(path), 200)}"
    if reader is None:
        raise InputError(f"{name} has the suffix {path.suffix!r:.20}; give a {_one_of(_READERS)} file")
    texts = list(reader(decoded(read_content(path, name), name), column, name))
    if not any(text.strip() for text in texts):
        raise InputError(f"{name} contains no text; give a file with at least one")
    return texts


def _csv_texts(content: str, column: str, name: str) -> Iterator[str]:
    before = csv.field_size_limit(_MAX_FIELD)
    try:
        rows = csv.reader(io.StringIO(content, newline=""), strict=True)
        header = next(rows, [])
        if header.count(column) != 1:
            found = "twice" if column in header else "not"
            raise InputError(
                f"{name}: the column {column!r:.60} is {found} in its header ({', '.join(header)!s:.100}); name "
                "another with --column"
            )
        place = header.index(column)
        for row in rows:
            if len(row) != len(header) and row:
                raise InputError(
                    f"{name}, line {rows.line_num}: {len(row)} fields, but the header has {len(header)}; quote "
                    "texts that contain commas or quotes"
                )
            yield row[place] if row else ""
    except csv.Error as error:
        raise InputError(
            f"{name}: not valid CSV ({error}); quote texts that contain commas or quotes"
        ) from None
    finally:
        csv.field_size_limit(before)


def _json_texts(content: str, column: str, name: str) -> Iterator[str]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = safe_reading.read_json(line)
        except ValueError as error:
            raise InputError(
                f"{name}, line {number}: not valid JSON ({error!s:.100}); give one object a line"
            ) from None
        text = value.get(column) if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise InputError(
                f"{name}, line {number}: {column} is {shown(text)}; give an object with a string {column!r:.60} "
                "(--column), or a string"
            )
        yield text


def _plain_texts(content: str, column: str, name: str) -> Iterator[str]:
    del column, name
    lines = content.split("\n")
    yield from (line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1]))


_READERS: dict[str, Callable[[str, str, str], Iterator[str]]] = {
    ".csv": _csv_texts,
    ".jsonl": _json_texts,
    ".txt": _plain_texts,
}


def check_output(path: Path) -> None:
    """Check the name of a file to write, before anything takes time.

    Raises:
        InputError: Its format is another one, or its folder does not exist.
    """
    name = f"--output: {shown(str(path), 200)}"
    if path.suffix.lower() not in _WRITERS:
        raise InputError(f"{name} has the suffix {path.suffix!r:.20}; give a {_one_of(_WRITERS)} file")
    try:
        there = path.parent.is_dir()
    except (OSError, ValueError):
        there = False
    if not there:
        raise InputError(f"{name} is in no existing folder; create it, or choose another")


def write_answers(path: Path, answers: Sequence[dict[str, Any]], top_k: int) -> None:
    """Write an atomic file with one answer for each text, in their order.

    Args:
        path: A name that ``check_output`` accepts.
        answers: Objects with ``text``, what ``TextClassifier`` returns, and for a blank text ``blank``.
        top_k: Number of labels that an answer has in ``top`` at most; 1: no such key is read.

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
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    own = list(_columns(answers[0])) if answers else ["label", "score"]
    # The first of the best labels is the answer where that is one label.
    further = range(2 if own[0] == "label" else 1, top_k + 1) if top_k > 1 else range(0)
    writer.writerow(["text", *own, "blank", *(f"{each}_{n}" for n in further for each in ("label", "score"))])
    for answer in answers:
        top = answer.get("top", [])[further.start - 1 : top_k] if further else []
        others = [cell for each in top for cell in (each["label"], each["score"])]
        blank = str(answer.get("blank", False)).lower()
        row = [answer["text"], *_columns(answer).values(), blank, *others]
        writer.writerow([*row, *[""] * (2 + len(own) + 2 * len(further) - len(row))])
    return text.getvalue()


def _columns(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the cells of an answer by column: label and score, or all labels and scores, or the numbers."""
    if "labels" in answer:
        return {
            "labels": ";".join(each["label"] for each in answer["labels"]),
            "scores": ";".join(str(each["score"]) for each in answer["labels"]),
        }
    if "values" in answer:
        return dict(answer["values"])
    return {name: answer[name] for name in ("label", "score", "value") if name in answer}


def _as_json(answers: Sequence[dict[str, Any]], top_k: int) -> str:
    del top_k
    return "".join(json.dumps(each, ensure_ascii=False, allow_nan=False) + "\n" for each in answers)


_WRITERS: dict[str, Callable[[Sequence[dict[str, Any]], int], str]] = {".csv": _as_csv, ".jsonl": _as_json}


def _one_of(suffixes: dict[str, Any]) -> str:
    *first, last = suffixes
    return f"{', '.join(first)} or {last}"
