"""One number or several for each text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ....errors import DataError, shown
from ..rows import LabelError, Split, fault_of, is_blank
from .base import LabelFormat, LabelKind
from .other_tasks import naming_other_tasks

_NUM_BINS = 10
_ROWS_PER_BIN = 10


class Numbers(LabelKind):
    """Labels that are tuples of finite numbers, equally many for each text."""

    name: ClassVar[str] = "numbers"
    unit: ClassVar[str] = "number(s) a text"
    strata_are_labels: ClassVar[bool] = False

    def reader(self, form: LabelFormat) -> Callable[[object], tuple[float, ...]]:
        """Return the function that converts a number, or a row of several columns, to the numbers."""
        if form.separator is not None:
            raise DataError(
                f"data.label_separator: {form.separator!r} given, but the task reads numbers; remove it, and name "
                "several columns of numbers in data.label_columns"
            )
        if form.columns:
            return lambda values: tuple(
                _number(value, column) for value, column in zip(_as_tuple(values), form.columns, strict=True)
            )
        return naming_other_tasks(lambda value: (_number(value, "label"),), ("multi_label", "single_label"))

    def remedy(self, form: LabelFormat) -> str:
        """Return the remedy for rows without a text or a number."""
        key = "data.label_columns" if form.columns else "data.label_column"
        return f"give each row a text and a finite number ({key}), or remove the row"

    def without_rare(
        self, splits: list[Split], at_least: int, treatment: str, out_of_scope: str | None, notes: list[str]
    ) -> list[Split]:
        """Reject a minimum number of texts of each label."""
        if at_least > 1:
            raise DataError(
                f"data.min_examples_per_label: {at_least} given, but the labels of this task are numbers, of which "
                "none is rare; set it to 1"
            )
        return splits

    def without_untaught(
        self, splits: list[Split], form: LabelFormat, out_of_scope: str | None, notes: list[str]
    ) -> list[Split]:
        """Reject numbers that are all equal: nothing can be learned from them, and no correlation measured."""
        for split in splits:
            values = np.asarray(split.labels, dtype=np.float32)
            for name, column in zip(self.output_names(split.labels, form), values.T, strict=True):
                if np.ptp(column) == 0:
                    raise DataError(
                        f"{split.origin}: every number of the column {shown(name)} in the {split.name} split is "
                        f"{column[0]:g}; give texts with different numbers, or check the column"
                    )
        return splits

    def output_names(self, labels: Sequence[Any], form: LabelFormat) -> list[str]:
        """Return the names of the columns."""
        return list(form.columns or (form.column,))

    def feature(self, names: Sequence[str]) -> Any:
        """Return a list of numbers in 32 bits, one for each column."""
        from datasets import List, Value

        return List(Value("float32"), length=len(names))

    def stored(self, label: tuple[float, ...], number_of: Mapping[str, int]) -> list[float]:
        """Return the numbers."""
        return list(label)

    def text(self, stored: Sequence[float], names: Sequence[str]) -> str:
        """Return the numbers as a JSON list."""
        return json.dumps([float(number) for number in stored])

    def strata(self, labels: Sequence[tuple[float, ...]]) -> list[tuple[str, ...]]:
        """Return the quantile bin of each number: up to ten bins per column, of about ten or more texts each."""
        num_bins = min(_NUM_BINS, max(1, len(labels) // _ROWS_PER_BIN))
        bins = []
        for column, values in enumerate(np.asarray(labels, dtype=float).T):
            edges = np.unique(np.quantile(values, np.linspace(0, 1, num_bins + 1)[1:-1]))
            bins.append([f"{column}:{number}" for number in np.searchsorted(edges, values)])
        return list(zip(*bins, strict=True))


def _as_tuple(values: object) -> tuple[object, ...]:
    assert isinstance(values, tuple)
    return values


def _number(value: object, column: str) -> float:
    found = None
    if isinstance(value, str) and value.strip():
        try:
            found = None if "_" in value else float(value)  # 1_000 is a number in Python alone
        except ValueError:
            raise LabelError(f"{column} is {shown(value)}, not a number") from None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:  # an integer beyond the largest float
            found = math.inf
    if found is None:
        what = fault_of(value) if is_blank(value) else f"is {shown(value)}, not a number"
        raise LabelError(f"{column} {what}")
    if not abs(found) <= float(np.finfo(np.float32).max):
        raise LabelError(f"{column} is {shown(value)}, not a finite number in 32 bits")
    return found


NUMBERS = Numbers()
