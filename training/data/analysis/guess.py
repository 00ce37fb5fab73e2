"""Guess which columns of a table hold texts and labels, and which task a new job on them has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ....errors import DataError, shown
from ..label_kinds.other_tasks import SEPARATORS
from ..rows import MISSING, quoted
from ..sources.columns import Table
from .token_labels import answer_columns, has_answers, has_entities, has_tokens_of

# Usual names of columns, the most usual first.
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
    *("tokens", "words"),
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
    *("labels", "intention", "department", "queue", "type", "rating", "tags", "topics", "categories"),
    *("emotions",),
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
"""Usual names of the columns of a pair; case, white space, hyphens and underscores are ignored."""
_OUT_OF_SCOPE = re.compile(r"(oos|ood|out[ _-]?of[ _-]?(scope|domain)|(nlu[ _-]?)?fallback)", re.IGNORECASE)
_MARKED_NAMES = ("answers", "ner", "entities", "spans", "slots", "bio", "label", "labels", "tags")
"""Of answers and entities. In CoNLL-2003, chunks have tags of the same form as entities."""
_NUMBER_NAMES = ("score", "similarity", "relatedness", "value", "number", "stars")
_BINARY = {"0", "1", "0.0", "1.0", "False", "True", "false", "true"}
_LEAST_DIVIDED = 0.1  # share of the values
_MOST_CLASSES_OF_NUMBERS = 30
_MOST_LABELS = 2000
_MOST_LABEL_CHARACTERS = 100


@dataclass(frozen=True)
class ColumnLook:
    """Statistics of a column's values.

    Attributes:
        name: Its name.
        num_filled: Number of values that are not blank.
        num_distinct: Number of different values.
        mean_words, mean_characters: Mean length of the filled values.
        is_numeric: Whether every filled value is a number.
        is_binary: Whether every value is 0 or 1, also written as a float or Boolean.
        is_list: Whether every filled value is a list, or is written as one.
        separator: What stands between several labels in its values, or None.
        is_measured: Whether its numbers are measurements, not classes: some are fractions, and many are distinct.
        has_entities: Whether its values are lists of tags or of spans, or strings of them.
        has_answers: Whether its values are answers with their places, as in SQuAD.
    """

    name: str
    num_filled: int
    num_distinct: int
    mean_words: float
    mean_characters: float
    is_numeric: bool
    is_binary: bool = False
    is_list: bool = False
    separator: str | None = None
    is_measured: bool = False
    has_entities: bool = False
    has_answers: bool = False


@dataclass(frozen=True)
class ColumnGuess:
    """The columns that a job reads, and those that it does not.

    Attributes:
        text: Name of the column with the text.
        label: Name of the column with the label or labels; None where there are ``labels``.
        others: Names of the other columns.
        labels: Names of the columns of 0 and 1, one for each label, or of answers and their first characters.
        separator: What stands between the labels in ``label``, or None.
        task: Name of the task that has such labels.
        pair: Name of the column with the second text of each pair; None: texts are single.
    """

    text: str
    label: str | None
    others: list[str]
    labels: list[str] = field(default_factory=list)
    separator: str | None = None
    task: str = "single_label"
    pair: str | None = None


def look_at(name: str, values: Sequence[object]) -> ColumnLook:
    """Measure a column."""
    filled = [str(value) for value in values if value is not None and value is not MISSING]
    filled = [value for value in filled if value.strip()]
    count = max(len(filled), 1)
    is_numeric = bool(filled) and all(_is_number(value) for value in filled)
    return ColumnLook(
        name=name,
        num_filled=len(filled),
        num_distinct=len(set(filled)),
        mean_words=sum(len(value.split()) for value in filled) / count,
        mean_characters=sum(map(len, filled)) / count,
        is_numeric=is_numeric,
        is_binary=bool(filled) and len(filled) == len(values) and set(filled) <= _BINARY,
        is_list=bool(filled) and all(value.lstrip().startswith("[") for value in filled),
        separator=None if is_numeric else _separator(filled),
        is_measured=are_measured(filled),
        has_entities=has_entities(values),
        has_answers=has_answers(values),
    )


def _separator(filled: Sequence[str]) -> str | None:
    """Return the character that divides many values into a few recurring names, or None."""
    for each in SEPARATORS:
        parts = Counter(part.strip() for value in filled for part in value.split(each) if part.strip())
        num_divided = sum(each in value for value in filled)
        recurring = sum(count for count in parts.values() if count > 1)
        is_short = all(len(part) <= _MOST_LABEL_CHARACTERS and len(part.split()) <= 4 for part in parts)
        is_combined = len(set(filled)) > len(parts)  # else the character is part of the names
        if num_divided < _LEAST_DIVIDED * len(filled) or recurring < 0.9 * parts.total():
            continue
        if is_short and is_combined:
            return each
    return None


def are_measured(filled: Sequence[str]) -> bool:
    """Return whether values are numbers that measure something: some are fractions, and many are distinct."""
    if not all(map(_is_number, filled)):
        return False
    numbers = set(map(float, filled))
    has_fractions = any(not number.is_integer() for number in numbers)
    return has_fractions and len(numbers) > min(_MOST_CLASSES_OF_NUMBERS, len(filled) // 4)


def guess_columns(
    table: Table, text: str | None = None, label: str | None = None, pair: str | None = None
) -> ColumnGuess:
    """Guess the columns with the text and the label, and the task.

    A label has few distinct, short values; a text has long values that are mostly distinct. Among several candidates a
    usual name is preferred, then the longest text and the label with the fewest values. The task follows from the
    label: lists, values with a separator, or two or more columns of 0 and 1 are several labels; fractions are numbers
    for regression; lists of tags or spans are entities; answers with their places belong to questions, in one column or
    in two. Two columns with the usual names of a pair, such as sentence1 and sentence2 or premise and hypothesis, are
    read together, unless the text is given.

    Args:
        table: All columns of the data.
        text: Column with the text, if it is known.
        label: Column with the label, if it is known.
        pair: Column with the second text of each pair, if it is known that texts are pairs.

    Raises:
        DataError: A column does not exist, or none can be the text or the label; lists the columns.
    """
    for name, option in ((text, "--text"), (label, "--label"), (pair, "--text-pair")):
        if name is not None and name not in table.names:
            raise DataError(f"{option}: {shown(name)} given; accepted: one of {quoted(table.names)}")
    names = [name for name in dict.fromkeys(table.names) if name.strip()]
    values = {name: table.column(name) for name in names}
    looks = {name: look_at(name, each) for name, each in values.items()}
    given = {text, pair}
    answers = answer_columns(values, pair)
    if answers is not None and label in (None, answers[0]) and text not in answers[:2]:
        return _guess_of_answers(table, looks, answers, text)
    binary = [name for name, each in looks.items() if each.is_binary and name not in given]
    if label is None:
        marked = [each for each in looks.values() if each.has_answers or each.has_entities]
        label = _best([each for each in marked if each.name not in given], _MARKED_NAMES, lambda each: 0)
    if label is None and len(binary) > 1 and not _has_usual_label(looks, binary):
        text, pair = _texts_of(table, looks, binary, text, pair)
        others = [name for name in names if name not in (text, pair, *binary)]
        return ColumnGuess(text, None, others, binary, task="multi_label", pair=pair)
    if label is None:
        label = _label_of_other_task(looks, given)
    if label is None:
        candidates = [each for name, each in looks.items() if name not in given and _can_be_label(each)]
        label = _best(candidates, _LABEL_NAMES, lambda each: each.num_distinct)
    if label is None:
        raise DataError(f"{table.origin}: {_no_column('label', '--label', looks)}")
    found, among = looks[label], looks
    if found.has_entities:  # of several texts, the one with as many tokens as there are tags
        fitting = {name: looks[name] for name in names if has_tokens_of(values[name], values[label])}
        among = {name: each for name, each in fitting.items() if name != label} or looks
    text, pair = _texts_of(table, among, [label], text, pair)
    others = [name for name in names if name not in (text, label, pair)]
    separator = None if found.is_list or found.has_answers else found.separator
    return ColumnGuess(text, label, others, separator=separator, task=_task_of(found), pair=pair)


def _guess_of_answers(
    table: Table, looks: dict[str, ColumnLook], columns: tuple[str, str, str], text: str | None
) -> ColumnGuess:
    """Return the guess for questions whose answers and first characters are columns of their own."""
    *labels, context = columns
    text, _ = _texts_of(table, looks, labels, text, context)
    others = [name for name in looks if name not in (text, *columns)]
    return ColumnGuess(text, None, others, labels, task="question_answering", pair=context)


def _task_of(label: ColumnLook) -> str:
    """Return the name of the task that has such labels."""
    if label.has_answers:
        return "question_answering"
    if label.has_entities:
        return "token_classification"
    if label.is_list or label.separator is not None:
        return "multi_label"
    return "regression" if label.is_measured else "single_label"


def _texts_of(
    table: Table, looks: dict[str, ColumnLook], labels: Sequence[str], text: str | None, pair: str | None
) -> tuple[str, str | None]:
    """Return the column of the text and, for a pair, that of the second text; columns that are given are kept."""
    if text is not None:
        return text, pair
    others = [each for name, each in looks.items() if name not in (*labels, pair) and _can_be_text(each)]
    first, second = (None, None) if pair is not None else _pair([each.name for each in others])
    if first is not None:
        return first, second
    text = _best(others, _TEXT_NAMES, lambda each: -each.mean_words)
    if text is None:
        raise DataError(f"{table.origin}: {_no_column('text', '--text', looks)}")
    return text, pair


def _has_usual_label(looks: dict[str, ColumnLook], binary: Sequence[str]) -> bool:
    """Return whether another column has the name and the values of a label, so that those of 0 and 1 are not labels."""
    return any(
        name not in binary and _can_be_label(each) and any(word in _LABEL_NAMES for word in _words(name))
        for name, each in looks.items()
    )


def _label_of_other_task(looks: dict[str, ColumnLook], texts: Collection[str | None]) -> str | None:
    """Return a column of lists, of values with a separator or of fractions that has the name of a label, or None."""
    found = [
        each
        for name, each in looks.items()
        if name not in texts
        and (each.is_list or each.separator is not None or each.is_measured)
        and any(word in (*_LABEL_NAMES, *_NUMBER_NAMES) for word in _words(name))
    ]
    return _best(found, (*_LABEL_NAMES, *_NUMBER_NAMES), lambda each: each.num_distinct)


def guess_out_of_scope(labels: Sequence[str]) -> str | None:
    """Return the only label whose name means that a text is outside every other label; None if there is not one."""
    found = [name for name in labels if _OUT_OF_SCOPE.fullmatch(name.strip())]
    return found[0] if len(found) == 1 else None


def rare_labels(labels: Mapping[str, int] | Sequence[str], at_least: int) -> dict[str, int]:
    """Return the labels with fewer than ``at_least`` texts and their counts, the rarest first.

    ``labels``: the label of each text, or the number of texts of each label.
    """
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
        words = _words(column.name)
        places = [usual.index(word) for word in words if word in usual]
        return not places, min(places, default=0), key(column)

    return min(candidates, key=rank).name if candidates else None


def _words(name: str) -> list[str]:
    return re.split(r"[^a-z0-9]+", name.casefold())


def _no_column(role: str, option: str, looks: dict[str, ColumnLook]) -> str:
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
