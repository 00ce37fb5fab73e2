"""The columns to read from a file or dataset, and the split that is made of them."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ....errors import DataError
from ..rows import MISSING, RawSplit, column_error

DEFAULT_LABEL_COLUMN = "label"


@dataclass(frozen=True)
class Table:
    """A file or dataset with named columns.

    Attributes:
        origin: File or dataset, as the user named it.
        names: Names of all columns; a file may have one twice.
        column: Returns the values of a column, one per row.
        place: Location of a row (counted from 0), such as ``line 7``.
    """

    origin: str
    names: Sequence[str]
    column: Callable[[str], Sequence[object]]
    place: Callable[[int], str]


@dataclass(frozen=True)
class Columns:
    """The columns to read.

    Attributes:
        text: Column with the text; None where there is a template.
        label: Column with the label; None for unlabelled texts.
        group: Column with the group, or None.
        template: Text with columns in braces, or None.
        slices: Columns by whose values results are shown.
        section: Path of the section that names them; None: options of a command name them, such as
            ``--text-column``.
        labels: Columns of the labels in place of ``label``; a row's label is then the tuple of their values.
        pair: Column with the second text of each pair; None: texts are single.
        id: Column with the id of each row, or None.
    """

    text: str | None
    label: str | None = None
    group: str | None = None
    template: str | None = None
    section: str | None = "data"
    slices: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    pair: str | None = None
    id: str | None = None

    @cached_property
    def keys(self) -> dict[str, str]:
        """Map each column to the full path of the key that names it."""
        of_template = [] if self.template is None else template_columns(self.template)
        named = {
            **dict.fromkeys(self.slices, "slice_columns"),
            **dict.fromkeys(of_template, "text_template"),
            self.id: "id_column",
            self.group: "group_column",
            **dict.fromkeys(self.labels, "label_columns"),
            self.label: "label_column",
            self.pair: "text_pair_column",
            self.text: "text_column",
        }
        return {column: self._path(key) for column, key in named.items() if column is not None}

    def _path(self, key: str) -> str:
        if self.section is not None:
            return f"{self.section}.{key}"
        return f"--{key.removesuffix('s').replace('_', '-')}"  # an option names one column

    def check(self, origin: str, names: Sequence[str]) -> None:
        """Check that each column to read exists once.

        Raises:
            DataError: A column does not exist, or several have its name.
        """
        for column in reversed(self.keys):  # the text first
            count = names.count(column)
            if not count:
                raise column_error(origin, self.keys[column], column, names)
            if count > 1:
                raise DataError(f"{origin}: {count} columns are called {column!r}; rename all but one")

    def split(self, name: str, table: Table) -> RawSplit:
        """Return the unchecked split of a table.

        Raises:
            DataError: A column does not exist.
        """
        self.check(table.origin, table.names)
        texts = self._template_texts(table) if self.text is None else table.column(self.text)
        labels = self._labels(table, name, len(texts))
        groups = None if self.group is None else table.column(self.group)
        slices = {column: table.column(column) for column in self.slices}
        pairs = None if self.pair is None else table.column(self.pair)
        ids = None if self.id is None else table.column(self.id)
        return RawSplit(name, table.origin, texts, labels, table.place, groups, slices, pairs, ids)

    def _labels(self, table: Table, name: str, num_rows: int) -> Sequence[object]:
        if self.labels:
            return list(zip(*(table.column(column) for column in self.labels), strict=True))
        return [name] * num_rows if self.label is None else table.column(self.label)

    def _template_texts(self, table: Table) -> list[object]:
        """Return the text of each row by the template; None where all of its columns are blank."""
        parts = _parts(self.template or "")
        columns = {column: table.column(column) for _, column in parts if column is not None}
        rows = zip(*columns.values(), strict=True)
        return [_fill(parts, dict(zip(columns, row, strict=True))) for row in rows]


def template_columns(template: str) -> list[str]:
    """Return the columns that a template names, each once.

    Raises:
        ValueError: It names none, or has a brace that does not enclose a name.
    """
    try:
        columns = [column for _, column in _parts(template) if column is not None]
    except ValueError:
        columns = [""]
    if not columns or not all(column.strip() for column in columns):
        raise ValueError(
            'accepted: a text with columns in braces, such as "{title}: {body}"; write a brace itself as {{ or }}'
        )
    return list(dict.fromkeys(columns))


def _parts(template: str) -> list[tuple[str, str | None]]:
    """Return pairs of literal text and the column after it; None if no column follows."""
    parts = []
    for literal, column, spec, conversion in string.Formatter().parse(template):
        if column is not None and (spec or conversion):
            column = f"{column}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}"
        parts.append((literal, column))
    return parts


def _fill(parts: list[tuple[str, str | None]], row: dict[str, object]) -> object:
    """Fill a template with one row; None if all values are blank.

    A value that is neither text nor a number is returned as it is, so that it is reported as a fault.
    """
    empty = (None, MISSING)
    wrong = [
        value for value in row.values() if value not in empty and not isinstance(value, str | int | float)
    ]
    if wrong:
        return wrong[0]
    values = {column: "" if value in empty or value != value else str(value) for column, value in row.items()}
    if not any(value.strip() for value in values.values()):
        return None
    return "".join(literal + ("" if column is None else values[column]) for literal, column in parts).strip()
