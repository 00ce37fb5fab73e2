"""Recognise columns of a table that hold entities, or answers with their places, in every form that is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..label_kinds import ANSWERS, LabelFormat
from ..label_kinds.answers import is_answer
from ..label_kinds.other_tasks import is_span
from ..label_kinds.tag_scheme import OUTSIDE, is_tag
from ..label_kinds.tags import listed, tokens_of
from ..rows import MISSING, LabelError

_ANSWER_NAMES = (
    ("answer", "start"),
    ("answer", "answer_start"),
    ("answer_text", "answer_start"),
    ("answer_text", "start"),
)
"""Usual names of the columns of an answer and of its first character; case, blanks and hyphens are ignored."""
_CONTEXT_NAMES = ("context", "passage", "paragraph", "document", "text")


def has_answers(values: Sequence[object]) -> bool:
    """Return whether some values are not empty, and all of these are answers with their places."""
    filled = [value for value in values if value not in (None, MISSING, "", [])]
    filled = [value for value in filled if not (isinstance(value, str) and value.strip() in ("", "[]"))]
    return bool(filled) and all(map(is_answer, filled))


def has_entities(values: Sequence[object]) -> bool:
    """Return whether every value is a list of tags (IOB2 or a similar scheme) or of spans, and some have entities.

    A string is a list in the syntax of JSON or Python, or tags divided by blanks, some of which are ``O``.
    """
    found_entity = found_several = False
    for value in values:
        row = listed(value)
        if not isinstance(row, list | tuple):
            return False
        entries = [each for each in row if each != OUTSIDE]
        if not all(is_tag(each) if isinstance(each, str) else is_span(each) for each in entries):
            return False
        found_entity = found_entity or bool(entries)
        is_list = not isinstance(value, str) or value.lstrip().startswith("[")
        found_several = found_several or is_list or (len(row) > 1 and OUTSIDE in row)
    return found_entity and found_several


def has_tokens_of(texts: Sequence[object], labels: Sequence[object]) -> bool:
    """Return whether each text has one token for each tag of its label; False for labels that are spans."""
    for text, label in zip(texts, map(listed, labels), strict=True):
        if not isinstance(label, list | tuple) or not all(isinstance(each, str) for each in label):
            return False
        tokens = tokens_of(text, label)
        if tokens is None or len(tokens) != len(label):
            return False
    return True


def answer_columns(
    columns: Mapping[str, Sequence[object]], context: str | None = None
) -> tuple[str, str, str] | None:
    """Return the columns of answers, of their first characters and of the contexts, if most answers are there.

    Args:
        columns: The values of each column.
        context: Column of the contexts; None: one with a usual name.
    """
    plain = {re.sub(r"[\s-]+", "_", name.strip().casefold()): name for name in columns}
    contexts = [context] if context is not None else [plain[name] for name in _CONTEXT_NAMES if name in plain]
    for names in _ANSWER_NAMES:
        if not all(name in plain for name in names):
            continue
        text, start = (plain[name] for name in names)
        for each in contexts:
            read = ANSWERS.reader(LabelFormat(columns=(text, start)))
            rows = zip(columns[each], zip(columns[text], columns[start], strict=True), strict=True)
            found = [_answers_of(read, row) for row in rows]
            if 2 * sum(each is not None for each in found) > len(found) and any(found):
                return text, start, each
    return None


def _answers_of(read: Any, row: tuple[object, tuple[object, object]]) -> tuple[Any, ...] | None:
    """Return the answers of a row's context and columns; None if they are not at their places."""
    try:
        return read(row)
    except LabelError:
        return None
