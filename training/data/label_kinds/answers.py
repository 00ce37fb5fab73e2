"""Answers to a question: spans of characters of its context, none if the context does not answer it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

from ....errors import DataError, shown
from ..rows import LabelError, RawSplit, Split, fault_of, is_blank, is_name, whole_number
from .base import LabelFormat, LabelKind
from .literals import literal

ENDS = ("start", "end")
"""Names of a model's outputs for each token."""
TEXT, START = "text", "answer_start"
"""Keys of an answer, as in SQuAD."""
_ANSWERED, _UNANSWERABLE = "answered", "unanswerable"


class Span(NamedTuple):
    """The characters of a context from ``start`` to the one before ``end``."""

    start: int
    end: int


class Answers(LabelKind):
    """Labels that are tuples of spans of the context: the correct answers to a question; the first is trained on.

    A row's label is an object with ``text`` and ``answer_start``, each a list or one value, a list of such objects, or
    either as a JSON string; with two ``label_columns``, these two are columns. The texts are pairs of a question and
    its context.
    """

    name: ClassVar[str] = "answers"
    unit: ClassVar[str] = "ends of an answer"
    strata_are_labels: ClassVar[bool] = False

    def prepared(self, raw: RawSplit) -> RawSplit:
        """Return the split with labels of (context, label).

        Raises:
            DataError: The rows have no contexts.
        """
        if raw.pairs is None:
            raise DataError(
                f"{raw.origin}: the rows have no contexts, but the task finds answers in them; set "
                "data.text_pair_column to the column with the context, or set another task"
            )
        return replace(raw, labels=list(zip(raw.pairs, raw.labels, strict=True)))

    def reader(self, form: LabelFormat) -> Callable[[object], tuple[Span, ...]]:
        """Return the function that converts (context, label) of a row to the answers."""
        if form.separator is not None:
            raise DataError(
                f"data.label_separator: {form.separator!r} given, but answers are spans of their context; remove it"
            )
        if form.columns and len(form.columns) != len(ENDS):
            raise DataError(
                f"data.label_columns: {shown(list(form.columns))} given; accepted: two columns, of the answer's text "
                "and of its first character in the context; or name one column with both in data.label_column"
            )
        return lambda value: _read(value, in_columns=bool(form.columns))

    def remedy(self, form: LabelFormat) -> str:
        """Return the remedy for rows without a question, a context or valid answers."""
        key = "data.label_columns" if form.columns else "data.label_column"
        return (
            f"give each row a question, its context, and answers with their text and first character ({key}; an empty "
            "list where there is none), or remove the row"
        )

    def without_rare(
        self, splits: list[Split], at_least: int, treatment: str, out_of_scope: str | None, notes: list[str]
    ) -> list[Split]:
        """Reject a minimum number of texts of each label."""
        if at_least > 1:
            raise DataError(
                f"data.min_examples_per_label: {at_least} given, but the labels of this task are spans of a context, "
                "of which none is rare; set it to 1"
            )
        return splits

    def without_untaught(
        self, splits: list[Split], form: LabelFormat, out_of_scope: str | None, notes: list[str]
    ) -> list[Split]:
        """Reject a training split without any answer, and note that none of its questions is unanswerable."""
        answered = {split.name: sum(map(bool, split.labels)) for split in splits}
        train = splits[0]
        if not answered[train.name]:
            raise DataError(
                f"{train.origin}: no question of the {train.name} split has an answer, so that nothing can be learned; "
                "give answers, or check data.label_column"
            )
        others = [each.name for each in splits[1:] if answered[each.name] < len(each.labels)]
        if others and answered[train.name] == len(train.labels):
            notes.append(
                f"{' and '.join(others)}: some questions have no answer, but every one of train has, so that a model "
                "cannot learn when to give none"
            )
        return splits

    def output_names(self, labels: Sequence[Any], form: LabelFormat) -> list[str]:
        """Return the names of the two ends of an answer."""
        return list(ENDS)

    def feature(self, names: Sequence[str]) -> Any:
        """Return the feature of a list of answers, each as its first character and the one after its last."""
        from datasets import List, Value

        return List(List(Value("int32"), length=len(ENDS)))

    def stored(self, label: tuple[Span, ...], number_of: Mapping[str, int]) -> list[list[int]]:
        """Return both ends of each answer."""
        return [list(each) for each in label]

    def text(self, stored: Sequence[Sequence[int]], names: Sequence[str]) -> str:
        """Return both ends of each answer as a JSON list."""
        return json.dumps([list(each) for each in stored])

    def summary(self, stored: Sequence[Sequence[Any]], names: Sequence[str]) -> str:
        """Return the number of questions, and how many of them have no answer."""
        num_without = sum(not each for each in stored)
        without = f", {num_without:,} of them without an answer" if num_without else ""
        return f"{len(stored):,} question{'' if len(stored) == 1 else 's'}{without}"

    def strata(self, labels: Sequence[tuple[Span, ...]]) -> list[tuple[str, ...]]:
        """Return whether each question has an answer."""
        return [(_ANSWERED if each else _UNANSWERABLE,) for each in labels]

    def groups(self, split: Split) -> list[str | None] | None:
        """Return the context of each row, so that questions about one context stay together."""
        return [context for _, context in split.texts]


def is_answer(value: object) -> bool:
    """Return whether a value is an object with an answer's text and place, or a list of such objects, as in SQuAD."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "[") and START in value:
        value = literal(value)
    if isinstance(value, Mapping):
        return TEXT in value and START in value
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(e, Mapping) and is_answer(e) for e in value)
    )


def _read(value: object, *, in_columns: bool) -> tuple[Span, ...]:
    """Return the answers of a row's context and label.

    Raises:
        LabelError: They are not answers, or not at their place in the context.
    """
    assert isinstance(value, tuple)
    context, label = value
    texts, starts = _columns_of(label) if in_columns else _parts_of(label)
    if not isinstance(context, str):
        return ()  # the fault of the context itself is reported elsewhere
    if len(texts) != len(starts):
        raise LabelError(f"{len(texts)} answers for {len(starts)} first characters ({START})")
    spans = (_span(context, *each, number) for number, each in enumerate(zip(texts, starts, strict=True), 1))
    return tuple(dict.fromkeys(spans))


def _columns_of(label: Any) -> tuple[list[Any], list[Any]]:
    """Return texts and first characters of two columns; a blank text is no answer."""
    text, start = label
    if isinstance(text, list | tuple):
        return list(text), _as_list(start)
    return ([], []) if is_blank(text) else ([text], _as_list(start))


def _parts_of(label: Any) -> tuple[list[Any], list[Any]]:
    """Return texts and first characters of an object with both, or of a list of such objects."""
    if isinstance(label, str) and label.strip():
        found = literal(label)
        if found is None:
            raise LabelError(f"answers is {shown(label)}, not an object with {TEXT} and {START}")
        label = found
    if isinstance(label, Mapping):
        missing = next((key for key in (TEXT, START) if label.get(key) is None), None)
        if missing is not None:
            raise LabelError(f"answers has no {missing}")
        return _as_list(label[TEXT]), _as_list(label[START])
    if not isinstance(label, list | tuple):
        what = (
            fault_of(label)
            if is_blank(label)
            else f"is {shown(label)}, not an object with {TEXT} and {START}"
        )
        raise LabelError(f"answers {what}")
    for number, each in enumerate(label, 1):
        if not isinstance(each, Mapping):
            raise LabelError(f"answer {number} is {shown(each)}, not an object with {TEXT} and {START}")
        missing = next((key for key in (TEXT, START) if each.get(key) is None), None)
        if missing is not None:
            raise LabelError(f"answer {number} has no {missing}")
    return [each[TEXT] for each in label], [each[START] for each in label]


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _span(context: str, text: Any, start: Any, number: int) -> Span:
    """Return an answer's span, with white space removed from its ends; ``number`` is for the error."""
    if not is_name(text):
        raise LabelError(f"answer {number} {fault_of(text)}")
    is_text = isinstance(start, str) and start.strip().isascii() and start.strip().isdigit()
    start = int(start) if is_text else whole_number(start)
    if type(start) is not int:
        raise LabelError(f"{START} of answer {number} is {shown(start)}, not a whole number")
    if not 0 <= start < len(context):
        raise LabelError(
            f"answer {number} starts at {shown(start)}, outside of its context of {len(context)} characters"
        )
    found = context[start : start + len(text)]
    if found != text:
        raise LabelError(f"answer {number} is {shown(text)}, but its context has {shown(found)} at {start}")
    start += len(text) - len(text.lstrip())
    return Span(start, start + len(text.strip()))


ANSWERS = Answers()
