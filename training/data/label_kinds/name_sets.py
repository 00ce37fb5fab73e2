"""Several names for each text, or none: a list, a string with a separator, or a column of 0 and 1 for each name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from ....errors import DataError, shown
from ..rows import LabelError, Split, fault_of, is_blank, name_of, read_name
from .base import LabelFormat
from .literals import literal
from .other_tasks import naming_other_tasks
from .vocabulary import NO_LABEL, NamedKind

_TRUTH = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


class NameSets(NamedKind):
    """Labels that are sorted tuples of distinct names; a text without any has the empty tuple."""

    name: ClassVar[str] = "name_sets"
    left_out: ClassVar[str] = "their texts keep their other labels"
    dropped: ClassVar[str] = "left out of their texts"

    def reader(self, form: LabelFormat) -> Callable[[object], tuple[str, ...]]:
        """Return the function that converts a list, a string or a row of several columns to the names."""
        if form.columns and form.separator is not None:
            raise DataError(
                f"data.label_separator: {form.separator!r} given, but data.label_columns has a column for each label; "
                "remove one of them"
            )
        if form.columns:
            return lambda values: _read_columns(values, form.columns)
        return naming_other_tasks(
            lambda value: _read_value(value, form.separator), ("regression", "single_label")
        )

    def remedy(self, form: LabelFormat) -> str:
        """Return the remedy for rows without a text or valid labels."""
        if form.columns:
            return (
                "write 1 where a text has the label and 0 elsewhere; numbers are read by the task regression, one name "
                "a text from data.label_column"
            )
        how = (
            "a list of names (set data.label_separator where it is one string)"
            if form.separator is None
            else f"names divided by {form.separator!r}"
        )
        return f"give each row a text and {how}; an empty one for a text without labels"

    def names_in(self, label: tuple[str, ...]) -> Sequence[str]:
        """Return the names."""
        return label

    def renamed(self, label: tuple[str, ...], new: Mapping[str, str | None]) -> tuple[str, ...]:
        """Return the new names, without those that are left out."""
        names = (new.get(name, name) for name in label)
        return tuple(sorted({name for name in names if name is not None}))

    def check_taught(self, taught: set[str], train: Split) -> None:
        """Reject training rows without any label."""
        if not taught:
            raise DataError(
                f"{train.origin}: no row of the train split has a label; check data.label_column and data.label_columns"
            )

    def feature(self, names: Sequence[str]) -> Any:
        """Return the feature of a list of 0 and 1, one for each name."""
        from datasets import List, Value

        return List(Value("int8"), length=len(names))

    def stored(self, label: tuple[str, ...], number_of: Mapping[str, int]) -> list[int]:
        """Return 1 at the position of each name, and 0 elsewhere."""
        row = [0] * len(number_of)
        for name in label:
            row[number_of[name]] = 1
        return row

    def text(self, stored: Sequence[int], names: Sequence[str]) -> str:
        """Return the names as a JSON list."""
        return json.dumps([name for name, is_set in zip(names, stored, strict=True) if is_set])

    def counts(self, stored: Sequence[Sequence[int]], names: Sequence[str]) -> dict[str, int]:
        """Return the number of texts that have each name."""
        totals = [sum(column) for column in zip(*stored, strict=True)]
        return {name: count for name, count in zip(names, totals, strict=True) if count}

    def strata(self, labels: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
        """Return the names of each text, or ``NO_LABEL``: with them the division is iterative stratification.

        Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-label Data", ECML PKDD 2011.
        """
        return [label or (NO_LABEL,) for label in labels]


def _read_columns(values: object, columns: tuple[str, ...]) -> tuple[str, ...]:
    assert isinstance(values, tuple)
    return tuple(sorted(name for name, value in zip(columns, values, strict=True) if _is_set(value, name)))


def _is_set(value: object, column: str) -> bool:
    found = _TRUTH.get(str(value).strip().casefold()) if isinstance(value, str | int | float) else None
    if found is None:
        raise LabelError(
            f"{column} {fault_of(value) if is_blank(value) else f'is {shown(value)}, not 0 or 1'}"
        )
    return found


def _read_value(value: object, separator: str | None) -> tuple[str, ...]:
    if isinstance(value, str):
        values = _split_string(value, separator)
    elif isinstance(value, list | tuple):
        values = list(value)
    else:
        what = fault_of(name_of(value)) if is_blank(value) else f"is {shown(value)}, not a list of labels"
        raise LabelError(f"label {what}")
    return tuple(sorted({read_name(each) for each in values}))


def _split_string(value: str, separator: str | None) -> list[object]:
    """Return the labels in a string: divided by the separator, or written as a list of JSON or Python."""
    if separator is not None:
        return [part.strip() for part in value.split(separator) if part.strip()]
    if not value.strip():
        return []
    found = literal(value) if value.lstrip().startswith("[") else None
    if isinstance(found, list):
        return found
    raise LabelError(f"label is {shown(value)}, not a list of labels")


NAME_SETS = NameSets()
