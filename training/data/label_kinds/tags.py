"""Entities of each text: tags of its tokens in IOB2, or spans of characters."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, TypeGuard

from ....errors import DataError, shown
from ..rows import LabelError, RawSplit, Split, at_blanks, fault_of, is_blank, is_name, whole_number
from .base import LabelFormat
from .literals import literal
from .other_tasks import task_of
from .tag_scheme import BEGIN, entity_types, is_tag, parse_tag, tag_names
from .vocabulary import NO_LABEL, NamedKind

_OTHER_TASKS = ("single_label", "multi_label", "regression", "question_answering")
_KEYS = ("start", "end", "label")


class Entity(NamedTuple):
    """An entity of a type: the characters of a text from ``start`` to the one before ``end``."""

    start: int
    end: int
    type: str


class Tags(NamedKind):
    """Labels that are tuples of a text's entities, in their order; a text without any has the empty tuple.

    A row's label is a list of tags, one for each token, or a list of spans, each an object with ``start``, ``end`` and
    ``label``, or a list of these three; a string is such a list in the syntax of JSON or Python, or tags separated by
    blanks. The tokens of a row are a list, a string that holds one, or a text that is split at blanks; a list of tokens
    is joined by blanks to the row's text.
    """

    name: ClassVar[str] = "tags"
    unit: ClassVar[str] = "tags"
    left_out: ClassVar[str] = "their words count as outside of entities"
    dropped: ClassVar[str] = "left out, so that their words count as outside of entities"

    def prepared(self, raw: RawSplit) -> RawSplit:
        """Return the split with lists of tokens joined to texts; a label becomes (text or tokens, label, as given)."""
        labels = [listed(label) for label in raw.labels]
        given = [_tokens_or_text(text, label) for text, label in zip(raw.texts, labels, strict=True)]
        rows = list(zip(given, labels, raw.labels, strict=True))
        return replace(raw, texts=list(map(_joined, given)), labels=rows)

    def reader(self, form: LabelFormat) -> Callable[[object], tuple[Entity, ...]]:
        """Return the function that converts (text or tokens, tags or spans, as given) of a row to the entities."""
        for key, given in (("label_columns", list(form.columns)), ("label_separator", form.separator)):
            if given:
                raise DataError(
                    f"data.{key}: {shown(given)} given, but the task reads one column of tags or spans "
                    "(data.label_column); remove it"
                )
        return _read_row

    def remedy(self, form: LabelFormat) -> str:
        """Return the remedy for rows without valid tokens, tags or spans."""
        del form
        return (
            "give each row its tokens and one tag for each (O, B-TYPE or I-TYPE), or a text and a list of spans, such "
            'as [{"start": 0, "end": 5, "label": "TYPE"}]'
        )

    def names_in(self, label: tuple[Entity, ...]) -> Sequence[str]:
        """Return the types of the entities."""
        return [each.type for each in label]

    def renamed(self, label: tuple[Entity, ...], new: Mapping[str, str | None]) -> tuple[Entity, ...]:
        """Return the entities with new types, without those whose type is left out."""
        types = [new.get(each.type, each.type) for each in label]
        return tuple(
            each._replace(type=name) for each, name in zip(label, types, strict=True) if name is not None
        )

    def check_taught(self, taught: set[str], train: Split) -> None:
        """Reject training rows without any entity."""
        if not taught:
            raise DataError(
                f"{train.origin}: no row of the train split has an entity; check data.label_column"
            )

    def output_names(self, labels: Sequence[Any], form: LabelFormat) -> list[str]:
        """Return the names of the tags, for the sorted entity types."""
        return tag_names(super().output_names(labels, form))

    def feature(self, names: Sequence[str]) -> Any:
        """Return the feature of a list of entities, each as start, end and number of its type."""
        from datasets import List, Value

        return List(List(Value("int32"), length=3))

    def stored(self, label: tuple[Entity, ...], number_of: Mapping[str, int]) -> list[list[int]]:
        """Return start, end and number of the type of each entity."""
        return [[each.start, each.end, (number_of[f"{BEGIN}{each.type}"] - 1) // 2] for each in label]

    def text(self, stored: Sequence[Sequence[int]], names: Sequence[str]) -> str:
        """Return start, end and type of each entity as a JSON list."""
        types = entity_types(names)
        return json.dumps([[start, end, types[kind]] for start, end, kind in stored])

    def counts(self, stored: Sequence[Sequence[Sequence[int]]], names: Sequence[str]) -> dict[str, int]:
        """Return the number of texts with an entity of each type."""
        types = entity_types(names)
        found = Counter(types[kind] for label in stored for kind in {entity[2] for entity in label})
        return dict(found)

    def strata(self, labels: Sequence[tuple[Entity, ...]]) -> list[tuple[str, ...]]:
        """Return the types in each text, or ``NO_LABEL``: with them the division is iterative stratification."""
        return [tuple(sorted({each.type for each in label})) or (NO_LABEL,) for label in labels]


def listed(label: object) -> object:
    """Return the list of tags or spans that a string holds, and anything else as it is."""
    if not isinstance(label, str) or not label.strip():
        return label
    if not label.lstrip().startswith("["):
        return at_blanks(label)
    found = literal(label)
    return found if isinstance(found, list) else label


def tokens_of(text: object, label: object) -> Sequence[Any] | None:
    """Return the tokens of a row with tags: a list, one in a string, or the parts of a text; None if it has neither."""
    found = _tokens_or_text(text, label)
    if isinstance(found, str):
        return at_blanks(found)
    return found if isinstance(found, list | tuple) else None


def _tokens_or_text(text: object, label: object) -> object:
    """Return the list of tokens that the string of a row with tags holds, and any other text as it is."""
    if not isinstance(text, str) or not text.lstrip().startswith("[") or not _are_strings(label):
        return text
    found = literal(text)
    return found if _are_strings(found) else text


def _are_strings(value: object) -> TypeGuard[Sequence[str]]:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(each, str) for each in value)


def _joined(text: object) -> object:
    """Join a list of tokens to a text, and leave its faults to the reader; return anything else as it is."""
    return " ".join(map(str, text)) if isinstance(text, list | tuple) else text


def _read_row(value: object) -> tuple[Entity, ...]:
    """Return the entities of a row's text or tokens, its label, and the label as it was given.

    Raises:
        LabelError: They are not tags of these tokens, or not spans of this text; with the task that reads such labels.
    """
    assert isinstance(value, tuple)
    text, label, given = value
    try:
        return _read(text, label)
    except LabelError as error:
        task = None if _are_tags(text, label) else task_of(given, _OTHER_TASKS)
        raise LabelError(str(error), task, if_most=True) from None


def _are_tags(text: object, label: object) -> bool:
    """Return whether a label has a tag, or is one of other tags, such as parts of speech: a name for each token."""
    if not _are_strings(label):
        return False
    tokens = tokens_of(text, label) or ()
    return any(map(is_tag, label)) or 1 < len(label) == len(tokens)


def _read(text: object, label: object) -> tuple[Entity, ...]:
    """Return the entities of a row's text or tokens and its label; raise as :func:`_read_row` does."""
    if not isinstance(label, list | tuple):
        what = fault_of(label) if is_blank(label) else f"is {shown(label)}, not a list of tags or of spans"
        raise LabelError(f"label {what}")
    if isinstance(text, str) and not all(isinstance(each, str) for each in label):
        return _entities_of_spans(text, label)
    if not isinstance(text, str | list | tuple):
        return ()  # the fault of the text itself is reported elsewhere
    tokens = at_blanks(text) if isinstance(text, str) else list(text)
    if not label and not tokens:
        return ()
    return _entities_of_tags(tokens, list(label), text if isinstance(text, str) else None)


def _entities_of_tags(tokens: list[Any], tags: list[Any], text: str | None) -> tuple[Entity, ...]:
    """Return the entities of tagged tokens, which were split from ``text``, or given as a list if that is None.

    As in IOB1, ``I-`` begins an entity if none of its type precedes it.
    """
    if not tags and text is not None:
        return ()
    if len(tags) != len(tokens):
        raise LabelError(f"{len(tags)} tags for {len(tokens)} tokens")
    found: list[Entity] = []
    position, open_type = 0, None
    for number, (token, tag) in enumerate(zip(tokens, tags, strict=True), 1):
        if not is_name(token):
            raise LabelError(f"token {number} {fault_of(token)}")
        start = position if text is None else text.index(token, position)
        position = start + len(token)
        prefix, kind = parse_tag(tag, number)
        if kind is None:
            open_type = None
        elif prefix == "I" and kind == open_type:
            found[-1] = found[-1]._replace(end=position)
        else:
            found.append(Entity(start, position, kind))
            open_type = kind
        position += text is None  # the blank between two tokens
    return tuple(found)


def _entities_of_spans(text: str, spans: Sequence[Any]) -> tuple[Entity, ...]:
    """Return the entities of a list of spans, with white space removed from their ends."""
    found = sorted(_entity_of_span(text, span, number) for number, span in enumerate(spans, 1))
    for before, after in pairwise(found):
        if after.start < before.end:
            raise LabelError(
                f"the spans {before.start} to {before.end} and {after.start} to {after.end} overlap"
            )
    return tuple(found)


def _entity_of_span(text: str, span: Any, number: int) -> Entity:
    if isinstance(span, Mapping):
        missing = [key for key in _KEYS if span.get(key) is None]
        if missing:
            raise LabelError(f"span {number} has no {missing[0]}")
        values = [span[key] for key in _KEYS]
    elif isinstance(span, list | tuple) and len(span) == len(_KEYS):
        values = list(span)
    else:
        raise LabelError(f"span {number} is {shown(span)}, without start, end and label")
    start, end, kind = whole_number(values[0]), whole_number(values[1]), values[2]
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
        raise LabelError(
            f"span {number} is from {shown(start)} to {shown(end)}, outside of its text of {len(text)} characters"
        )
    if not is_name(kind):
        raise LabelError(f"label of span {number} {fault_of(kind)}")
    inside = text[start:end]
    if not inside.strip():
        raise LabelError(f"span {number} is from {start} to {end}, where the text is blank")
    return Entity(start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip()), kind)


TAGS = Tags()
