"""The base class of kinds of labels, from a value of a file to the numbers that a task learns.

A task names its kind. A label is what the kind's reader returns: a name, a tuple of names, of numbers, of entities.
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
    """What the labels of a task are.

    Attributes:
        name: Name of the kind.
        unit: What data has a number of, for a summary.
        strata_are_labels: Whether each of ``strata`` is a label, of which a split needs a text.
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
        """Return the function from a row's value to its label; with ``form.columns`` the value is a tuple of theirs.

        The function raises ``LabelError`` for a value that is no label.

        Raises:
            DataError: Labels of this kind are not written in that format; names the key and the remedy.
        """

    def remedy(self, form: LabelFormat) -> str:
        """Return what to do about rows without a valid text or label."""
        del form
        return "give each row a text and a label, or remove the row"

    # ---- Vocabulary -------------------------------------------------------------------------------------

    def names_in(self, label: Any) -> Sequence[str]:
        """Return the names that a label has; none where labels are no names."""
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
            DataError: There are no label names that could be rare.
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
            DataError: The training labels allow nothing to be learned, or those of a split nothing to be measured.
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
        """Return the text of a stored label in the fingerprint of the data."""

    def counts(self, stored: Sequence[Any], names: Sequence[str]) -> dict[str, int] | None:
        """Return the number of stored labels by name, without those of none; None where labels are no names."""
        del stored, names
        return None

    def summary(self, stored: Sequence[Any], names: Sequence[str]) -> str | None:
        """Return what there is to say of stored labels without names, in words; None: their numbers are listed."""
        del stored, names
        return None

    # ---- Divided ----------------------------------------------------------------------------------------

    @abstractmethod
    def strata(self, labels: Sequence[Any]) -> list[tuple[str, ...]]:
        """Return the strata of each of N labels, by which splits are drawn; every label has one or more."""

    def groups(self, split: Split) -> list[str | None] | None:
        """Return what else keeps rows together when a split is held out, one value for each; None: nothing does."""
        del split
        return None
