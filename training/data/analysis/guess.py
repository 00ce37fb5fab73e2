"""Guess which columns of a table hold the text and the label, and what a new job should say about its data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....errors import DataError, shown
from ..rows import MISSING, quoted
from ..sources.columns import Table

_TEXT_NAMES = (
    *(
        "text",
        "utterance",
        "sentence",
        "message",
        "query",
        "question",
        "review",
        "content",
        "body",
        "comment",
    ),
    *("tweet", "post", "prompt", "input", "request", "description", "title", "subject", "document", "phrase"),
)
_LABEL_NAMES = (
    *(
        "label",
        "intent",
        "category",
        "class",
        "target",
        "topic",
        "sentiment",
        "tag",
        "emotion",
        "y",
        "output",
    ),
    *("labels", "intention", "department", "queue", "type", "rating"),
)
_PAIRS = (
    ("sentence1", "sentence2"),
    ("text1", "text2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("text", "text_pair"),
    ("query", "passage"),
    ("query", "document"),
    ("question", "context"),
    ("question", "sentence"),
    ("sentence_a", "sentence_b"),
)
"""Usual names of the columns of a pair, without case, and with or without white space, hyphens and underscores."""
_OUT_OF_SCOPE = re.compile(r"(oos|ood|out[ _-]?of[ _-]?(scope|domain)|(nlu[ _-]?)?fallback)", re.IGNORECASE)
_MOST_LABELS = 2000
_MOST_LABEL_CHARACTERS = 100


@dataclass(frozen=True)
class ColumnLook:
    """What a column holds.

    Attributes:
        name: Its name.
        num_filled: Number of values that are not blank.
        num_distinct: Number of different values.
        mean_words, mean_characters: Mean length of the filled values.
        is_numeric: Whether every filled value is a number.
    """

    name: str
    num_filled: int
    num_distinct: int
    mean_words: float
    mean_characters: float
    is_numeric: bool


@dataclass(frozen=True)
class ColumnGuess:
    """The columns that a job reads, and those that it does not.

    Attributes:
        text, label: Names of the columns.
        others: Names of the other columns.
        pair: Name of the column with the second text of each pair; None: texts are single.
    """

    text: str
    label: str
    others: list[str]
    pair: str | None = None


def look_at(name: str, values: Sequence[object]) -> ColumnLook:
    """Measure a column."""
    filled = [str(value) for value in values if value is not None and value is not MISSING]
    filled = [value for value in filled if value.strip()]
    count = max(len(filled), 1)
    return ColumnLook(
        name=name,
        num_filled=len(filled),
        num_distinct=len(set(filled)),
        mean_words=sum(len(value.split()) for value in filled) / count,
        mean_characters=sum(map(len, filled)) / count,
        is_numeric=bool(filled) and all(_is_number(value) for value in filled),
    )


def guess_columns(table: Table, text: str | None = None, label: str | None = None) -> ColumnGuess:
    """Guess the columns with the text and the label.

    A label has few distinct, short values; a text has long ones that are mostly distinct. Of several candidates the one
    with a usual name is taken, then the longest text and the label with the fewest values. Two columns with the usual
    names of a pair, such as sentence1 and sentence2 or premise and hypothesis, are read together, unless the text is
    given.

    Args:
        table: All columns of the data.
        text: Column with the text, if it is known.
        label: Column with the label, if it is known.

    Raises:
        DataError: A column does not exist, or none can be the text or the label; lists the columns.
    """
    for name, option in ((text, "--text"), (label, "--label")):
        if name is not None and name not in table.names:
            raise DataError(f"{option}: {shown(name)} given; accepted: one of {quoted(table.names)}")
    names = [name for name in dict.fromkeys(table.names) if name.strip()]
    looks = {name: look_at(name, table.column(name)) for name in names}
    if label is None:
        candidates = [each for name, each in looks.items() if name != text and _can_be_label(each)]
        label = _best(candidates, _LABEL_NAMES, lambda each: each.num_distinct)
    if label is None:
        raise DataError(f"{table.origin}: {_none('label', '--label', looks)}")
    pair = None
    if text is None:
        text, pair = _pair([name for name, each in looks.items() if name != label and _can_be_text(each)])
    if text is None:
        others = [each for name, each in looks.items() if name != label and _can_be_text(each)]
        text = _best(others, _TEXT_NAMES, lambda each: -each.mean_words)
    if text is None:
        raise DataError(f"{table.origin}: {_none('text', '--text', looks)}")
    return ColumnGuess(text, label, [name for name in names if name not in (text, label, pair)], pair)


def guess_out_of_scope(labels: Sequence[str]) -> str | None:
    """Return the one label whose name means that a text is outside every other label, or None."""
    found = [name for name in labels if _OUT_OF_SCOPE.fullmatch(name.strip())]
    return found[0] if len(found) == 1 else None


def rare_labels(labels: Sequence[str], at_least: int) -> dict[str, int]:
    """Return the labels with fewer than ``at_least`` texts and their counts, the rarest first."""
    counts = Counter(labels)
    rare = sorted((count, name) for name, count in counts.items() if count < at_least)
    return {name: count for count, name in rare}


def _pair(names: Sequence[str]) -> tuple[str | None, str | None]:
    """Return the first two columns whose names are usual for a pair of texts, or None twice."""
    plain = {re.sub(r"[\s_-]", "", name.casefold()): name for name in names}
    for pair in _PAIRS:
        first, second = (plain.get(each.replace("_", "")) for each in pair)
        if first is not None and second is not None:
            return first, second
    return None, None


def _can_be_label(column: ColumnLook) -> bool:
    return (
        2 <= column.num_distinct <= min(_MOST_LABELS, max(2, column.num_filled // 2))
        and column.mean_characters <= _MOST_LABEL_CHARACTERS
    )


def _can_be_text(column: ColumnLook) -> bool:
    return column.num_distinct >= 2 and not column.is_numeric


def _best(candidates: Sequence[ColumnLook], usual: Sequence[str], key: Any) -> str | None:
    def rank(column: ColumnLook) -> tuple[bool, int, Any]:
        words = re.split(r"[^a-z0-9]+", column.name.casefold())
        places = [usual.index(word) for word in words if word in usual]
        return not places, min(places, default=0), key(column)

    return min(candidates, key=rank).name if candidates else None


def _none(role: str, option: str, looks: dict[str, ColumnLook]) -> str:
    seen = "; ".join(
        f"{shown(each.name)}: {each.num_distinct:,} distinct values, {each.mean_words:.0f} words each"
        for each in list(looks.values())[:8]
    )
    return f"no column looks like the {role} ({seen}); name it with {option}"


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
