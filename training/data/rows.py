"""Rows as read from a source, the check of their texts and labels, and the wording of their errors."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from ...errors import DataError, shown

SPLITS: Final = ("train", "validation", "test")
NUM_SHOWN: Final = 5
_Made = TypeVar("_Made")


class _Missing:
    """Marker for a field that a row lacks; None stands for a null in the file."""


MISSING: Final = _Missing()


@dataclass(frozen=True)
class RawSplit:
    """One split as read from its source, unchecked.

    Attributes:
        name: ``train``, ``validation`` or ``test``.
        origin: File or dataset, as the user named it.
        texts: One value per row; anything that a file can hold.
        labels: One value per row, parallel to ``texts``.
        place: Location of a row (counted from 0) in the origin, such as ``line 7``.
    """

    name: str
    origin: str
    texts: Sequence[object]
    labels: Sequence[object]
    place: Callable[[int], str]


@dataclass(frozen=True)
class Split:
    """One checked split: texts are strings and labels are names; ``place`` as in RawSplit."""

    name: str
    origin: str
    texts: list[str]
    labels: list[str]
    place: Callable[[int], str]


def checked(raw: RawSplit) -> Split:
    """Check that every text is a non-blank string and every label a name (integers become names).

    Raises:
        DataError: There is no row, or some are invalid; names the first rows and counts all.
    """
    if not len(raw.texts):
        raise DataError(
            f"{raw.origin}: the {raw.name} split has no rows; it needs at least one text and label"
        )
    labels = [str(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in raw.labels]
    faults = FaultList()
    for index, (text, label) in enumerate(zip(raw.texts, labels, strict=True)):
        for field, value in (("text", text), ("label", label)):
            if not isinstance(value, str) or not value.strip() or not _is_unicode(value):
                faults.add(lambda i=index, f=field, v=value: f"{raw.place(i)}: {f} {_fault(v)}")
    faults.raise_if_any(raw.origin, "give each row a text and a label, or remove the row")
    texts = [text for text in raw.texts if isinstance(text, str)]
    return Split(
        raw.name, raw.origin, texts, [label for label in labels if isinstance(label, str)], raw.place
    )


class FaultList:
    """Count the faults of one file and describe the first few."""

    def __init__(self) -> None:
        self.num_faults = 0
        self._shown: list[str] = []

    def add(self, describe: Callable[[], str]) -> None:
        """Add a fault; ``describe`` is called only if it will be shown."""
        self.num_faults += 1
        if len(self._shown) < NUM_SHOWN:
            self._shown.append(describe())

    def raise_if_any(self, origin: str, remedy: str) -> None:
        """Raise a one-line DataError that names the origin, the first faults and the remedy."""
        if self.num_faults:
            rest = self.num_faults - len(self._shown)
            more = f"; and {rest:,} more" if rest else ""
            count = "1 fault" if self.num_faults == 1 else f"{self.num_faults:,} faults"
            raise DataError(f"{origin}: {count}: {'; '.join(self._shown)}{more}; {remedy}")


def collect(makers: Iterable[Callable[[], _Made]]) -> list[_Made]:
    """Call each maker; their DataErrors are raised together as one, with a line each."""
    made: list[_Made] = []
    errors: list[DataError] = []
    for make in makers:
        try:
            made.append(make())
        except DataError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise DataError("\n".join(str(error) for error in errors))
    return made


def quoted(names: Iterable[object], limit: int = 20) -> str:
    """Quote names for a message, separated by commas and cut after ``limit``."""
    given = list(names)
    rest = f" and {len(given) - limit:,} more" if len(given) > limit else ""
    return (", ".join(shown(name) for name in given[:limit]) or "none") + rest


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a hint with the closest of ``names``, or an empty string."""
    close = difflib.get_close_matches(name, list(names), 3, 0.6)
    return f"; nearest: {quoted(close)}" if close else ""


def column_error(origin: str, role: str, column: str, columns: Iterable[object]) -> DataError:
    """Return the error for a missing column; ``role`` is ``text`` or ``label``."""
    there = [str(name) for name in columns]
    return DataError(
        f"{origin}: no column {shown(column)} (data.{role}_column); it has {quoted(there)}"
        f"{nearest(column, there)}; set data.{role}_column to the column with the {role}"
    )


def _fault(value: object) -> str:
    if value is MISSING:
        return "is missing"
    if value is None:
        return "is null"
    if isinstance(value, str):
        return "contains a lone surrogate, which is not valid text" if value.strip() else "is empty or blank"
    return f"is {shown(value)} ({type(value).__name__}), not text"


def _is_unicode(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
