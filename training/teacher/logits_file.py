"""Read a file of a teacher's outputs on texts, which another program or ``distiltune label`` has written.

A row has the text (or the two texts of a pair), or the id of a row of the data, and one of these:

- ``logits.LABEL`` or ``probabilities.LABEL``: a column of numbers for each label;
- ``logits`` or ``probabilities``: one column of objects, label -> number;
- ``label``, and ``confidence`` where it is known: the label that the teacher predicts, and its probability; a list of
  labels, or an object of label and probability, where a text may have several; or the number that it predicts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError, shown
from ...texts import PAIR_COLUMN, TextOrPair
from ..data.rows import FaultList, column_error, is_blank, is_name, name_of, nearest, quoted
from ..data.sources.columns import Table
from ..data.sources.table import open_table

if TYPE_CHECKING:
    from ..checkpoints.heads import LabelMatch
    from ..tasks import Task
    from .config import LogitsFileConfig

LOGITS, PROBABILITIES, LABEL, CONFIDENCE = "logits", "probabilities", "label", "confidence"
_SECTION = "teacher.logits"
_FORMS = (
    f"{LOGITS}.LABEL or {PROBABILITIES}.LABEL for each label, {LOGITS} or {PROBABILITIES} with objects of label and "
    f"number, or {LABEL} and {CONFIDENCE}"
)
_TOLERANCE = 0.02  # by which the sum of a text's probabilities may differ from 1


@dataclass(frozen=True)
class FileLogits:
    """The logits of a file, joined by text or by id.

    Attributes:
        values: float32[M, C] in the order of the data's labels.
        row_of: Row of each text, or of each id.
    """

    values: np.ndarray
    row_of: Mapping[TextOrPair, int]

    def of(self, keys: Sequence[TextOrPair]) -> np.ndarray:
        """Return the logits of texts or ids, float32[N, C]; a row of NaN where the file lacks one."""
        found = np.full((len(keys), self.values.shape[1]), np.nan, dtype=np.float32)
        for number, key in enumerate(keys):
            row = self.row_of.get(key)
            if row is not None:
                found[number] = self.values[row]
        return found


def missing_rows(logits: np.ndarray) -> np.ndarray:
    """Return which of N texts a file lacks, bool[N], from logits[N, C] of :meth:`FileLogits.of`."""
    return np.any(np.isnan(logits), axis=1)


def read_logits(
    config: LogitsFileConfig, task: Task, names: Sequence[str], match: LabelMatch, *, has_pairs: bool
) -> FileLogits:
    """Read a file of logits, probabilities or labels.

    Rows without a text or without a value are left out.

    Args:
        config: The section ``teacher.logits``.
        task: The job's task.
        names: The labels of a model for the data, in order.
        match: How the file's labels become those of the data.
        has_pairs: Whether the data's texts are pairs.

    Raises:
        DataError: The file cannot be read, a column is missing, or a value is invalid; gives file, row and remedy.
        ModelError: Its labels are not those of the data.
    """
    table = open_table(config.path, parameter=f"{_SECTION}.path")
    what = "text" if config.id_column is None else "id"
    texts = _texts(config, table, has_pairs=has_pairs) if what == "text" else _ids(config, table)
    kept = [row for row, text in enumerate(texts) if text is not None]
    form, columns = _form(table)
    faults = FaultList()
    if form == LABEL:
        logits = _logits_of_labels(table, kept, names, match, task, faults)
    else:
        logits = _logits_of_numbers(table, kept, columns, form, names, match, task, faults)
    faults.raise_if_any(table.origin, "correct these rows, or remove them")
    rows = [(texts[row], values) for row, values in logits]
    found: dict[TextOrPair, int] = {}
    for number, (text, values) in enumerate(rows):
        assert text is not None
        first = found.setdefault(text, number)
        if not np.array_equal(rows[first][1], values):
            raise DataError(
                f"{table.origin}: two rows with different values have the {what} {shown(text)}; keep one row of each"
            )
    if not rows:
        raise DataError(f"{table.origin}: no row has a {what} and a value; check {_SECTION}.{what}_column")
    return FileLogits(np.stack([values for _, values in rows]).astype(np.float32), found)


def _texts(config: LogitsFileConfig, table: Table, *, has_pairs: bool) -> list[TextOrPair | None]:
    """Return the text of each row; None where it has none."""
    columns = {"text_column": config.text_column}
    if has_pairs:
        columns["text_pair_column"] = config.text_pair_column or PAIR_COLUMN
    elif config.text_pair_column is not None:
        raise DataError(
            f"{_SECTION}.text_pair_column: {config.text_pair_column!r} given, but the data's texts are single; "
            "remove it"
        )
    for key, column in columns.items():
        if column not in table.names:
            raise column_error(table.origin, f"{_SECTION}.{key}", column, table.names)
    rows = zip(*(table.column(column) for column in columns.values()), strict=True)
    texts: list[TextOrPair | None] = []
    for row in rows:
        text: Any = row if has_pairs else row[0]
        texts.append(text if all(is_name(part) for part in row) else None)
    return texts


def _ids(config: LogitsFileConfig, table: Table) -> list[TextOrPair | None]:
    """Return the id of each row; None where it has none."""
    column = str(config.id_column)
    if column not in table.names:
        raise column_error(table.origin, f"{_SECTION}.id_column", column, table.names)
    names = map(name_of, table.column(column))
    return [name if is_name(name) else None for name in names]


def _form(table: Table) -> tuple[str, dict[str, str]]:
    """Return the form of a file's outputs, and the column of each of its labels, if each has one."""
    found: dict[str, dict[str, str]] = {}
    for form in (LOGITS, PROBABILITIES):
        flat = {name.removeprefix(f"{form}."): name for name in table.names if name.startswith(f"{form}.")}
        if flat or form in table.names:
            found[form] = flat
    if not found and LABEL in table.names:
        return LABEL, {}
    if len(found) != 1:
        what = (
            f"has columns of {' and of '.join(found)}" if found else f"has the columns {quoted(table.names)}"
        )
        raise DataError(f"{table.origin}: {_SECTION}.path {what}; accepted, beside the text: {_FORMS}")
    return next(iter(found.items()))


def _logits_of_numbers(
    table: Table,
    kept: Sequence[int],
    columns: Mapping[str, str],
    form: str,
    names: Sequence[str],
    match: LabelMatch,
    task: Task,
    faults: FaultList,
) -> list[tuple[int, np.ndarray]]:
    """Return the rows that have numbers, each with its logits float64[C] in the order of ``names``."""
    if columns:
        held = {label: table.column(column) for label, column in columns.items()}
        row_of: Callable[[int], Any] = lambda row: {label: values[row] for label, values in held.items()}  # noqa: E731
    else:
        values = table.column(form)
        row_of = lambda row: _object(values[row])  # noqa: E731
    given = [(row, value) for row in kept if not _is_empty(value := row_of(row))]
    objects = [value for _, value in given if isinstance(value, Mapping)]
    own = [str(label) for label in (columns or (objects[0] if objects else {}))]
    order = match.positions(own, names, _SECTION, task) if own else []
    found = []
    for row, value in given:
        numbers = _numbers_or_fault(value, own)
        if form == PROBABILITIES and not isinstance(numbers, str):
            numbers = _probabilities_or_fault(numbers, task)
        if isinstance(numbers, str):
            faults.add(lambda r=row, fault=numbers: f"{table.place(r)}: {form}: {fault}")
        else:
            found.append((row, numbers[order]))
    if form == LOGITS or not found:
        return found
    return _as_logits(found, task)


def _as_logits(probabilities: list[tuple[int, np.ndarray]], task: Task) -> list[tuple[int, np.ndarray]]:
    """Return the rows with logits in place of probabilities."""
    logits = task.logits_of_probabilities(np.stack([values for _, values in probabilities]))
    if logits is None:
        raise DataError(
            f"{_SECTION}: the task {task.name} has no probabilities; give the numbers themselves as {LOGITS}.LABEL"
        )
    return [(row, values) for (row, _), values in zip(probabilities, logits, strict=True)]


def _object(value: object, begins: tuple[str, ...] = ("{",)) -> object:
    """Return what a JSON text with this beginning or the pairs of an Arrow map stand for; any other value as it is."""
    if isinstance(value, str) and value.lstrip().startswith(begins):
        try:
            return json.loads(value)
        except ValueError:
            return value
    if (
        isinstance(value, list)
        and value
        and all(isinstance(each, tuple) and len(each) == 2 for each in value)
    ):
        return dict(value)
    return value


def _is_empty(value: object) -> bool:
    return all(map(is_blank, value.values())) if isinstance(value, Mapping) else is_blank(value)


def _numbers_or_fault(value: object, labels: Sequence[str]) -> np.ndarray | str:
    """Return the numbers of a row, float64[C], or its fault."""
    if not isinstance(value, Mapping):
        return f"{shown(value)} is not an object of labels and numbers"
    if list(map(str, value)) != list(labels) and set(map(str, value)) != set(labels):
        return f"the labels are {quoted(value, 5)}, but in the first row {quoted(labels, 5)}"
    numbers = {str(label): _number(each) for label, each in value.items()}
    wrong = next((label for label, each in numbers.items() if each is None), None)
    if wrong is not None:
        given = next(each for label, each in value.items() if str(label) == wrong)
        return f"{shown(given)} of {shown(wrong)} is not a finite number"
    return np.array([numbers[label] for label in labels], dtype=np.float64)


def _number(value: object) -> float | None:
    """Return a finite number that a table holds as a number or a text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _probabilities_or_fault(numbers: np.ndarray, task: Task) -> np.ndarray | str:
    """Return a text's probabilities, which add up to exactly 1 where it has one class, or the fault of its row."""
    if numbers.min() < 0 or numbers.max() > 1 + _TOLERANCE:
        return f"the probabilities are {numbers.min():.3g} to {numbers.max():.3g}; accepted: 0 to 1"
    if not task.has_classes:
        return numbers
    total = numbers.sum()
    if abs(total - 1) > _TOLERANCE:
        return f"the probabilities of a text add up to {total:.3g}; accepted: 1"
    return numbers / total


def _logits_of_labels(
    table: Table,
    kept: Sequence[int],
    names: Sequence[str],
    match: LabelMatch,
    task: Task,
    faults: FaultList,
) -> list[tuple[int, np.ndarray]]:
    """Return the rows that have a label, labels or a number, each with logits float64[C]."""
    read = _label_reader(names, match, task)
    if read is None:
        raise DataError(
            f"{_SECTION}: {table.origin} has one label for each text, but the task is {task.name} with {len(names)} "
            f"outputs; give {LOGITS}.LABEL for each of them"
        )
    labels = table.column(LABEL)
    confidences = table.column(CONFIDENCE) if CONFIDENCE in table.names else [None] * len(labels)
    found = []
    for row in kept:
        if is_blank(labels[row]):
            continue
        values = read(labels[row], confidences[row])
        if isinstance(values, str):
            faults.add(lambda r=row, fault=values: f"{table.place(r)}: {fault}")
        elif values is not None:
            found.append((row, values))
    return _as_logits(found, task) if found and task.has_named_labels else found


_Read = Callable[[object, object], "np.ndarray | str | None"]


def _label_reader(names: Sequence[str], match: LabelMatch, task: Task) -> _Read | None:
    """Return the function from a row's label and confidence to float64[C], its fault, or None for a dropped label.

    It returns probabilities, of a task of numbers the number itself. It is None if the task has no such function.
    """
    place = {name: number for number, name in enumerate(names)}

    def position(label: object) -> int | str | None:
        name = match.renamed.get(str(name_of(label)), str(name_of(label)))
        if name in place or match.drop:
            return place.get(name)
        return (
            f"label {shown(name)} is not one of the data's labels{nearest(name, names)}; rename it with "
            "teacher.labels, or drop it with teacher.drop_labels"
        )

    def one(label: object, given: object) -> np.ndarray | str | None:
        """Read one label; the others share the rest of its confidence."""
        found, confidence = position(label), _confidence(given, 1 / len(names))
        if not isinstance(found, int):
            return found
        if isinstance(confidence, str):
            return confidence
        probabilities = np.full(len(names), (1 - confidence) / max(1, len(names) - 1))
        probabilities[found] = confidence
        return probabilities

    def several(labels: object, given: object) -> np.ndarray | str | None:
        """Read a list of labels, or an object of label and confidence; labels that are not named have none."""
        held, probabilities = _object(labels, ("{", "[")), np.zeros(len(names))
        if not isinstance(held, Mapping | list | tuple):
            return f"label is {shown(labels)}, not a list of labels, or an object of label and confidence"
        for label in held:
            own = held[label] if isinstance(held, Mapping) else given
            found, confidence = position(label), _confidence(own, 0.0)
            if isinstance(found, str):
                return found
            if isinstance(confidence, str):
                return confidence
            if found is not None:
                probabilities[found] = confidence
        return probabilities

    def number(value: object, _: object) -> np.ndarray | str:
        found = _number(value)
        return f"label is {shown(value)}, not a finite number" if found is None else np.array([found])

    if task.has_named_labels:
        return several if task.has_label_sets else one if task.has_classes else None
    return number if len(names) == 1 else None


def _confidence(value: object, least: float) -> float | str:
    """Return a confidence, 1 if it is blank, or its fault."""
    found = 1.0 if is_blank(value) else _number(value)
    if found is None or not least <= found <= 1:
        return f"confidence is {shown(value)}; accepted: {least:.3g} to 1"
    return found


def check_coverage(config: LogitsFileConfig, texts: Sequence[TextOrPair], logits: np.ndarray) -> int:
    """Return how many training texts a file lacks.

    Args:
        config: The section ``teacher.logits``.
        texts: The training texts.
        logits: Their logits, with rows of NaN.

    Raises:
        DataError: The file lacks a larger share than ``max_missing``; gives the first text.
    """
    lacking = np.flatnonzero(missing_rows(logits))
    share = len(lacking) / len(texts)
    if share > config.max_missing:
        raise DataError(
            f"{_SECTION}.max_missing: {config.max_missing:g} given, but {config.path} lacks {len(lacking):,} of "
            f"{len(texts):,} training texts ({share:.1%}), the first: {shown(texts[int(lacking[0])])}; add them to the "
            f"file, or raise the key up to {min(1.0, math.ceil(share * 100) / 100):g} to learn them from their label "
            "alone"
        )
    return len(lacking)
