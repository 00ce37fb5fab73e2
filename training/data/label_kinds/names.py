"""One name for each text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from ....errors import DataError
from ..rows import Split, quoted, read_name
from .base import LabelFormat
from .other_tasks import naming_other_tasks
from .vocabulary import NamedKind


class Names(NamedKind):
    """Labels that are one name each, a string; numbers and Booleans are converted to names."""

    name: ClassVar[str] = "names"
    unit: ClassVar[str] = "intents"
    has_out_of_scope: ClassVar[bool] = True
    left_out: ClassVar[str] = "the rows are dropped"
    dropped: ClassVar[str] = "dropped with their texts"

    def reader(self, form: LabelFormat) -> Callable[[object], str]:
        """Return the function that converts a string, number or Boolean to the name."""
        for key, given in (("label_columns", list(form.columns)), ("label_separator", form.separator)):
            if given:
                raise DataError(
                    f"data.{key}: {given!r:.100} given, but the task reads one label for each text; remove it, or set "
                    "task to multi_label"
                )
        return naming_other_tasks(read_name, ("multi_label", "regression"))

    def names_in(self, label: str) -> Sequence[str]:
        """Return the name."""
        return (label,)

    def renamed(self, label: str, new: Mapping[str, str | None]) -> str | None:
        """Return the new name; None for a label that is left out, with its text."""
        return new.get(label, label)

    def check_taught(self, taught: set[str], train: Split) -> None:
        """Reject a single label."""
        if len(taught) < 2:
            raise DataError(
                f"{train.origin}: the only label is {quoted(taught)}; a classifier needs two or more; "
                "check data.label_column"
            )

    def feature(self, names: Sequence[str]) -> Any:
        """Return a ``ClassLabel``."""
        from datasets import ClassLabel

        return ClassLabel(names=list(names))

    def stored(self, label: str, number_of: Mapping[str, int]) -> int:
        """Return the position of the name."""
        return number_of[label]

    def text(self, stored: int, names: Sequence[str]) -> str:
        """Return the name."""
        return names[stored]

    def counts(self, stored: Sequence[int], names: Sequence[str]) -> dict[str, int]:
        """Return the number of texts of each name."""
        return {names[number]: count for number, count in Counter(stored).items()}

    def strata(self, labels: Sequence[str]) -> list[tuple[str, ...]]:
        """Return the names."""
        return [(label,) for label in labels]


NAMES = Names()
