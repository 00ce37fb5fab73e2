"""Rows as read from a source, the check of their texts and labels, and the wording of their errors."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from string import whitespace
from typing import Any, Final, TypeGuard, TypeVar

from ...errors import DataError, shown
from ...texts import PAIR_COLUMN, TextOrPair, parts_of

SPLITS: Final = ("train", "validation", "test")
NUM_SHOWN: Final = 5
_TEXT_NAMES: Final = {"text": "text", PAIR_COLUMN: "second text"}
_Result = TypeVar("_Result")


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
        groups: One value per row, parallel to ``texts``: rows of equal value are not separated when a split is held
            out; None: there are no groups.
        slices: Further columns, by which results are shown: name -> one value per row, parallel to ``texts``.
        pairs: One value per row, parallel to ``texts``: the second text of each pair; None: texts are single.
        ids: One value per row, parallel to ``texts``: names of the rows; None: they have none.
    """

    name: str
    origin: str
    texts: Sequence[object]
    labels: Sequence[object]
    place: Callable[[int], str]
    groups: Sequence[object] | None = None
    slices: Mapping[str, Sequence[object]] = field(default_factory=dict)
    pairs: Sequence[object] | None = None
    ids: Sequence[object] | None = None

    def parts(self, row: int) -> dict[str, object]:
        """Return the value of a row's text, and of the second text of a pair, by the name that messages use."""
        first = {"text": self.texts[row]}
        return first if self.pairs is None else {**first, PAIR_COLUMN: self.pairs[row]}


@dataclass(frozen=True)
class Split:
    """One checked split; attributes as in RawSplit.

    Texts are strings, or pairs of them; labels are of one kind; groups, slices and ids are names.
    """

    name: str
    origin: str
    texts: list[TextOrPair]
    labels: list[Any]
    place: Callable[[int], str]
    groups: list[str | None]
    slices: dict[str, list[str | None]] = field(default_factory=dict)
    ids: list[str] | None = None

    def select(self, indices: Sequence[int], name: str | None = None) -> Split:
        """Return a split of some of the rows, under another name if one is given."""
        return Split(
            name or self.name,
            self.origin,
            [self.texts[i] for i in indices],
            [self.labels[i] for i in indices],
            lambda i: self.place(indices[i]),
            [self.groups[i] for i in indices],
            {column: [values[i] for i in indices] for column, values in self.slices.items()},
            None if self.ids is None else [self.ids[i] for i in indices],
        )


_BLANKS: Final = re.compile(f"[{whitespace}]+")


def at_blanks(text: str) -> list[str]:
    """Split a string at ASCII white space; other blanks, such as a no-break space in a number, divide no token."""
    return list(filter(None, _BLANKS.split(text)))


class LabelError(ValueError):
    """A value is not a label; the message names the column and describes the fault.

    Attributes:
        task: Name of the task that reads such labels; None: they are not known to be of another task.
        if_most: Whether that is only meant if most rows have such labels. One may also be a slip.
    """

    def __init__(self, message: str, task: str | None = None, *, if_most: bool = False) -> None:
        super().__init__(message)
        self.task, self.if_most = task, if_most


def checked(
    raw: RawSplit,
    notes: list[str],
    read_label: Callable[[object], Any] | None = None,
    remedy: str = "give each row a text and a label, or remove the row",
) -> Split:
    """Check that every text is a string and every label valid; drop rows that lack a text, or one of a pair.

    Args:
        raw: The split.
        notes: A warning that counts the dropped rows is appended; log it once all data has been accepted.
        read_label: Function from a row's value to its label, which raises ``LabelError``; None: ``read_name``.
        remedy: What to do about faults.

    Raises:
        DataError: There is no row with a text, or some are invalid; names the first rows and counts all.
    """
    num_rows = len(raw.texts)
    if not num_rows:
        raise DataError(
            f"{raw.origin}: the {raw.name} split has no rows; it needs at least one text and label"
        )
    kept = [i for i in range(num_rows) if not any(map(is_blank, raw.parts(i).values()))]
    if not kept:
        name, value = next((name, value) for name, value in raw.parts(0).items() if is_blank(value))
        raise DataError(
            f"{raw.origin}: no row of the {raw.name} split has a {_TEXT_NAMES[name]}: {raw.place(0)}: {name} "
            f"{fault_of(value)}; check the column with the {_TEXT_NAMES[name]}"
        )
    faults, of_tasks = FaultList(), Counter[tuple[str, bool]]()
    texts: list[TextOrPair] = []
    labels: list[Any] = []
    for index in kept:
        parts = raw.parts(index)
        for name, value in parts.items():
            if not is_name(value):
                faults.add(lambda i=index, n=name, v=value: f"{raw.place(i)}: {n} {fault_of(v)}")
        values: Any = tuple(parts.values())
        texts.append(values[0] if raw.pairs is None else values)
        if raw.ids is not None and _name_or_none(raw.ids[index]) is None:
            faults.add(lambda i=index, ids=raw.ids: f"{raw.place(i)}: id {fault_of(ids[i])}")
        try:
            labels.append((read_label or read_name)(raw.labels[index]))
        except LabelError as fault:
            faults.add(lambda i=index, what=str(fault): f"{raw.place(i)}: {what}")
            of_tasks.update([(fault.task, fault.if_most)] if fault.task else [])
    for (task, if_most), count in of_tasks.most_common(1):
        if not if_most:
            remedy = f"set task: {task}, or data.label_column to a column of other labels"
        elif count > len(kept) / 2:
            remedy = f"set task: {task}, or {remedy}"
    faults.raise_if_any(raw.origin, remedy)
    if len(kept) < num_rows:
        notes.append(_dropped_note(raw, kept))
    groups: list[str | None] = [None if raw.groups is None else _name_or_none(raw.groups[i]) for i in kept]
    slices = {column: [_name_or_none(values[i]) for i in kept] for column, values in raw.slices.items()}
    ids = None if raw.ids is None else [str(_name_or_none(raw.ids[i])) for i in kept]
    return Split(raw.name, raw.origin, texts, labels, lambda i: raw.place(kept[i]), groups, slices, ids)


def _dropped_note(raw: RawSplit, kept: Sequence[int]) -> str:
    """Return the warning that counts the rows that are not kept, and names the first."""
    num_rows = len(raw.texts)
    first = next(i for i, each in enumerate([*kept, num_rows]) if i != each)
    missing = "a text" if raw.pairs is None else "one of the two texts"
    rows = "1 row" if num_rows - len(kept) == 1 else f"{num_rows - len(kept):,} rows"
    return (
        f"{raw.origin}: {rows} of {num_rows:,} in the {raw.name} split dropped, without {missing}; the first: "
        f"{raw.place(first)}"
    )


def normalised(text: TextOrPair) -> str:
    """Normalise case and white space, so that texts with the same words compare equal; both texts of a pair count."""
    return "\n".join(" ".join(part.casefold().split()) for part in parts_of(text))


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


def collect(functions: Iterable[Callable[[], _Result]]) -> list[_Result]:
    """Return what each function returns; raise their DataErrors together as one, with a line for each."""
    results: list[_Result] = []
    errors: list[DataError] = []
    for function in functions:
        try:
            results.append(function())
        except DataError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise DataError("\n".join(str(error) for error in errors))
    return results


def quoted(names: Iterable[object], limit: int = 20) -> str:
    """Quote names for a message, separated by commas and cut after ``limit``."""
    given = list(names)
    rest = f" and {len(given) - limit:,} more" if len(given) > limit else ""
    return (", ".join(shown(name) for name in given[:limit]) or "none") + rest


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a hint with the closest of ``names``, or an empty string."""
    close = difflib.get_close_matches(name, list(names), 3, 0.6)
    return f"; nearest: {quoted(close)}" if close else ""


def column_error(origin: str, key: str, column: str, columns: Iterable[object]) -> DataError:
    """Return the error for a missing column; ``key`` is the full path of the key that names it."""
    known = [str(name) for name in columns]
    role = key.rpartition(".")[2].removeprefix("--").replace("-", "_").partition("_")[0]
    role = "second text" if key.endswith(("text_pair_column", "text-pair-column")) else role
    remedy = (
        f"name columns that it has in {key}"
        if key.endswith(("template", "slice_columns", "slice-column", "label_columns"))
        else f"set {key} to the column with the {role}"
    )
    return DataError(
        f"{origin}: no column {shown(column)} ({key}); it has {quoted(known)}{nearest(column, known)}; {remedy}"
    )


def read_name(value: object) -> str:
    """Return a value of a file as a name; integers, whole floats and Booleans are converted.

    Raises:
        LabelError: The value cannot be a name.
    """
    name = name_of(value)
    if not is_name(name):
        raise LabelError(f"label {fault_of(name)}")
    return name


def name_of(value: object) -> object:
    """Convert a number or Boolean to a name, and NaN, pandas' null, to None; return anything else unchanged."""
    if isinstance(value, float):
        if value != value:
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else value
    return str(value) if isinstance(value, int) else value


def _name_or_none(value: object) -> str | None:
    name = name_of(value)
    return None if name is None or name is MISSING or not str(name).strip() else str(name)


def whole_number(value: object) -> object:
    """Convert a whole float to an integer; return anything else unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_blank(value: object) -> bool:
    """Return whether a row has no value: a blank string, null, NaN, or no field."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value is MISSING or (isinstance(value, float) and value != value)


def fault_of(value: object) -> str:
    """Describe what is wrong with a value that is not valid text."""
    if value is MISSING:
        return "is missing"
    if value is None:
        return "is null"
    if isinstance(value, str):
        return "contains a lone surrogate, which is not valid text" if value.strip() else "is empty or blank"
    return f"is {shown(value)} ({type(value).__name__}), not text"


def is_name(value: object) -> TypeGuard[str]:
    """Return whether a value is a string that is not blank and can be written as UTF-8."""
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
