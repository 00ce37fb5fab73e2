"""The base class of label kinds, which convert values of a file to the numbers that a task is trained on.

A task names its kind. A label is what the kind's reader returns: a name, or a tuple of names, numbers or entities.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..rows import RawSplit, Split

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class LabelFormat:
    """Where the labels of a row are, and how they are written.

    Attributes:
        column: Column with the label or labels.
        columns: Several columns, one for each label or number, in place of ``column``; empty: there is one column.
        separator: What stands between the labels of one text where they are written as one string.
    """

    column: str = "label"
    columns: tuple[str, ...] = ()
    separator: str | None = None


class LabelKind(ABC):
    """A kind of labels.

    Attributes:
        name: Name of the kind.
        unit: What a summary counts, such as ``intents``.
        strata_are_labels: Whether each of ``strata`` is a label, of which a sample needs a text.
        has_out_of_scope: Whether a label may mean that a text is outside every other label.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = "labels"
    strata_are_labels: ClassVar[bool] = True
    has_out_of_scope: ClassVar[bool] = False

    # ---- Read -------------------------------------------------------------------------------------------

    def prepared(self, raw: RawSplit) -> RawSplit:
        """Return a split whose texts are strings, for a kind that reads its labels together with the texts."""
        return raw

    @abstractmethod
    def reader(self, form: LabelFormat) -> Callable[[object], Any]:
        """Return the function that converts a row's value, with ``form.columns`` a tuple of values, to its label.

        The function raises ``LabelError`` for a value that is not a label.

        Raises:
            DataError: Labels of this kind are not written in that format; names the key and the remedy.
        """

    def remedy(self, form: LabelFormat) -> str:
        """Return what to do about rows without a valid text or label."""
        del form
        return "give each row a text and a label, or remove the row"

    # ---- Vocabulary -------------------------------------------------------------------------------------

    def names_in(self, label: Any) -> Sequence[str]:
        """Return the names that a label has; empty if labels are not names."""
        del label
        return ()

    def unified(self, splits: list[Split]) -> list[Split]:
        """Return the splits with one spelling for each label.

        Raises:
            DataError: Two labels differ in case, white space or Unicode form alone.
        """
        return splits

    @abstractmethod
    def without_rare(
        self, splits: list[Split], at_least: int, treatment: str, out_of_scope: str | None, notes: list[str]
    ) -> list[Split]:
        """Keep, drop or merge the labels that are in fewer than ``at_least`` texts of all splits together.

        Args:
            splits: The checked splits.
            at_least: ``data.min_examples_per_label``.
            treatment: ``data.rare``.
            out_of_scope: The out-of-scope label, which is kept, or None.
            notes: A warning that names and counts the rare labels is appended.

        Raises:
            DataError: Labels have no names, so that none can be rare.
        """

    @abstractmethod
    def without_untaught(
        self, splits: list[Split], form: LabelFormat, out_of_scope: str | None, notes: list[str]
    ) -> list[Split]:
        """Leave out the labels that no training row has.

        Args:
            splits: Train, validation and test.
            form: Where the labels are.
            out_of_scope: The out-of-scope label, which is kept, or None.
            notes: Warnings that name and count the labels and rows are appended.

        Raises:
            DataError: Nothing can be learned from the training labels, or measured by those of a split.
        """

    @abstractmethod
    def output_names(self, labels: Sequence[Any], form: LabelFormat) -> list[str]:
        """Return the names of what a model predicts: the sorted labels of the training rows, or the columns."""

    # ---- Stored -----------------------------------------------------------------------------------------

    @abstractmethod
    def feature(self, names: Sequence[str]) -> datasets.features.features.FeatureType:
        """Return the feature of the column ``label`` for these output names."""

    @abstractmethod
    def stored(self, label: Any, number_of: Mapping[str, int]) -> Any:
        """Return a label as the column holds it; ``number_of`` gives the position of each output name."""

    @abstractmethod
    def text(self, stored: Any, names: Sequence[str]) -> str:
        """Return the text that represents a stored label in the fingerprint of the data."""

    def counts(self, stored: Sequence[Any], names: Sequence[str]) -> dict[str, int] | None:
        """Return the number of texts with each label, zeros left out; None if labels are not names."""
        del stored, names
        return None

    def summary(self, stored: Sequence[Any], names: Sequence[str]) -> str | None:
        """Describe stored labels in words; None: the names of the outputs describe them."""
        del stored, names
        return None

    # ---- Divided ----------------------------------------------------------------------------------------

    @abstractmethod
    def strata(self, labels: Sequence[Any]) -> list[tuple[str, ...]]:
        """Return the strata of each of N labels, by which splits are stratified; every label has at least one."""

    def groups(self, split: Split) -> list[str | None] | None:
        """Return a further group of each row, which stays together when a split is held out; None: no groups."""
        del split
        return None
