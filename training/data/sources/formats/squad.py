"""Read SQuAD's JSON files, versions 1.1 and 2.0: articles of paragraphs, each a context with questions and answers."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from .....errors import DataError, shown
from .....storage.safe_reading import read_json
from ...label_kinds.answers import START, TEXT
from ...rows import FaultList
from ..columns import Columns, Table

COLUMNS: Final = {"text": "question", "pair": "context", "label": "answers"}
"""Names of the columns that the task question_answering reads, by their role."""
_FURTHER = ("id", "title")
# An object whose first list has the key `data`, whatever short values precede it.
_BEGIN = re.compile(r'\s*\{\s*("(\\.|[^"\\])*"\s*:\s*("(\\.|[^"\\])*"|[-+.\w]+)\s*,\s*)*"data"\s*:\s*\[')
_HEAD = 4096  # characters that show whether a file has SQuAD's format
_REMEDY = (
    'write it as SQuAD does: {"data": [{"paragraphs": [{"context": …, "qas": [{"question": …, "answers": '
    '[{"text": …, "answer_start": …}]}]}]}]}'
)


def is_squad(content: str) -> bool:
    """Return whether a JSON file begins as SQuAD's format does."""
    return _BEGIN.match(content[:_HEAD]) is not None


def is_squad_file(name: str) -> bool:
    """Return whether a local file begins as SQuAD's format does; False if it cannot be read."""
    path = Path(name)
    if not path.name.lower().endswith((".json", ".json.gz")):
        return False
    try:
        path = path.expanduser()
        if not path.is_file():
            return False
        opened = gzip.open if path.name.lower().endswith(".gz") else open
        with opened(path, "rb") as file:
            head = file.read(_HEAD)
    except (OSError, EOFError, RuntimeError, ValueError):
        return False
    return is_squad(head.decode("utf-8-sig", errors="replace"))


def read_squad(content: str, origin: str, columns: Columns) -> Table | None:
    """Return the questions of a file that ``is_squad`` accepts.

    Args:
        content: The whole file.
        origin: Its name, for messages.
        columns: The columns to read, of ``question``, ``context``, ``answers`` (a list of objects), ``id`` and
            ``title``. A question with ``is_impossible`` has no answers.

    Returns:
        The table; None if the content has one object per line.

    Raises:
        DataError: It is not valid JSON, a key is missing or has a value of another type, there is no question, or a
            column does not exist.
    """
    try:
        values = read_json(content)
    except json.JSONDecodeError as error:
        if _is_json(content.lstrip().split("\n", 1)[0]):
            return None
        raise DataError(
            f"{origin}: line {error.lineno} column {error.colno}: not valid JSON ({error.msg}), though it begins as a "
            "file of SQuAD; copy it again"
        ) from None
    faults = FaultList()
    rows: list[dict[str, Any]] = []
    places: list[str] = []
    for place, row in _questions(values["data"], faults):
        places.append(place)
        rows.append(row)
    faults.raise_if_any(origin, _REMEDY)
    if not rows:
        raise DataError(f"{origin}: has no question; {_REMEDY}")
    names = [*COLUMNS.values(), *_FURTHER]
    try:
        columns.check(origin, names)
    except DataError as error:
        raise DataError(f"{error}, or set task: question_answering, which reads these columns") from None
    return Table(origin, names, lambda name: [row[name] for row in rows], places.__getitem__)


def _is_json(line: str) -> bool:
    try:
        read_json(line)
    except json.JSONDecodeError:
        return False
    return True


def _questions(articles: Any, faults: FaultList) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each question as a place and a row; missing keys and values of other types are added to ``faults``."""
    for number, article in enumerate(articles, 1):
        title = article.get("title") if isinstance(article, Mapping) else None
        place = f"article {number}{f' ({shown(title)})' if isinstance(title, str) else ''}"
        for n, paragraph in enumerate(_list_of(article, "paragraphs", place, faults), 1):
            where = f"{place}, paragraph {n}"
            context = _value(paragraph, "context", where, faults)
            for m, question in enumerate(_list_of(paragraph, "qas", where, faults), 1):
                yield from _question(question, context, title, f"{where}, question {m}", faults)


def _question(
    question: Any, context: Any, title: Any, place: str, faults: FaultList
) -> Iterator[tuple[str, dict[str, Any]]]:
    text = _value(question, "question", place, faults)
    answers = [] if _is_impossible(question) else _list_of(question, "answers", place, faults)
    for n, answer in enumerate(answers, 1):
        for key in (TEXT, START):
            _value(answer, key, f"{place}, answer {n}", faults)
    row = (text, context, answers, question.get("id") if isinstance(question, Mapping) else None, title)
    yield place, dict(zip([*COLUMNS.values(), *_FURTHER], row, strict=True))


def _is_impossible(question: Any) -> bool:
    return isinstance(question, Mapping) and question.get("is_impossible") is True


def _value(holder: Any, key: str, place: str, faults: FaultList) -> Any:
    """Return the value of a key; None if it is missing, which is added to ``faults``."""
    if not isinstance(holder, Mapping):
        faults.add(lambda: f"{place}: a JSON {type(holder).__name__}, not an object: {shown(holder)}")
        return None
    if key not in holder:
        faults.add(lambda: f"{place}: no {key!r}; it has {', '.join(map(repr, holder))!s:.100}")
    return holder.get(key)


def _list_of(holder: Any, key: str, place: str, faults: FaultList) -> list[Any]:
    """Return the list that a key has; empty if there is none, which is added to ``faults``."""
    num_before, value = faults.num_faults, _value(holder, key, place, faults)
    if isinstance(value, list):
        return value
    if faults.num_faults == num_before:
        faults.add(lambda: f"{place}: {key!r} is {shown(value)}, not a list")
    return []
