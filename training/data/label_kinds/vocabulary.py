"""Labels that are names: their spelling, rare labels, and labels that cannot be learned or measured."""

from __future__ import annotations

import re
import unicodedata
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

from ....errors import DataError, shown
from ..rows import NUM_SHOWN, SPLITS, Split, nearest, quoted
from .base import LabelFormat, LabelKind

NO_LABEL: Final = ""
"""Stratum of texts without a label."""
OTHER: Final = "other"
"""Label that rare labels are merged into."""

_WHOLE_NUMBER = re.compile(r"-?\d+(\.0+)?")


class NamedKind(LabelKind):
    """A kind whose labels have names.

    Attributes:
        left_out: What happens to the rows with a label that is left out, for a warning.
        dropped: What happens to rare labels where ``data.rare`` is ``drop``.
    """

    left_out: ClassVar[str]
    dropped: ClassVar[str]

    @abstractmethod
    def renamed(self, label: Any, new: Mapping[str, str | None]) -> Any:
        """Return a label with new names, without names whose new name is None; None if the row is left out."""

    @abstractmethod
    def check_taught(self, taught: set[str], train: Split) -> None:
        """Reject the names of the training labels if nothing can be learned from them.

        Raises:
            DataError: Nothing can be learned; gives the remedy.
        """

    def unified(self, splits: list[Split]) -> list[Split]:
        """Return the splits with one spelling of each label: ``1.0``, as pandas writes it, becomes ``1``.

        Decimals are removed only if every label is a whole number.

        Raises:
            DataError: Two labels differ in case, white space or Unicode form alone.
        """
        names = {name for split in splits for name in self._names(split)}
        if all(_WHOLE_NUMBER.fullmatch(name) for name in names):
            new = {name: name.partition(".")[0] for name in names}
            splits = [self._renamed(split, new) for split in splits]
            names = set(new.values())
        alike: defaultdict[str, list[str]] = defaultdict(list)
        for name in sorted(names):
            alike[_key(name)].append(name)
        wrong = [spellings for spellings in alike.values() if len(spellings) > 1]
        if wrong:
            first = "; ".join(
                " and ".join(
                    f"{ascii(name) if _invisible(name, spellings) else shown(name)} ({self._rows(name, splits)})"
                    for name in spellings
                )
                for spellings in wrong[:NUM_SHOWN]
            )
            more = f"; and {len(wrong) - NUM_SHOWN:,} more" if len(wrong) > NUM_SHOWN else ""
            raise DataError(
                f"labels that differ only in case, white space or Unicode form: {first}{more}; write each label in "
                "one way"
            )
        return splits

    def without_rare(
        self, splits: list[Split], at_least: int, treatment: str, out_of_scope: str | None, notes: list[str]
    ) -> list[Split]:
        """Keep, drop or merge the labels that are in fewer than ``at_least`` texts of all splits together."""
        counts = Counter(name for split in splits for name in self._names(split))
        rare = sorted(name for name, count in counts.items() if count < at_least and name != out_of_scope)
        if not rare:
            return splits
        other = next((name for name in counts if _key(name) == OTHER), OTHER)
        treated = {
            "keep": "kept (data.rare)",
            "drop": self.dropped,
            "other": f"merged into {shown(other)}",
        }[treatment]
        notes.append(
            f"data.min_examples_per_label: {len(rare):,} of {len(counts):,} labels "
            f"{'has' if len(rare) == 1 else 'have'} fewer than {at_least:,} texts and "
            f"{'is' if len(rare) == 1 else 'are'} {treated}: "
            f"{_first_few([f'{shown(name)} ({counts[name]:,})' for name in rare])}"
        )
        if treatment == "keep":
            return splits
        new = dict.fromkeys(rare, other if treatment == "other" else None)
        return [self._renamed(split, new) for split in splits]

    def without_untaught(
        self, splits: list[Split], form: LabelFormat, out_of_scope: str | None, notes: list[str]
    ) -> list[Split]:
        """Leave out the labels that no training row has; note every label that a split lacks.

        The out-of-scope label is kept: a threshold can predict it.
        """
        taught = {name for split in splits if split.name == "train" for name in self._names(split)}
        self.check_taught(taught, splits[0])
        names = {name for split in splits for name in self._names(split)} - {out_of_scope}
        unused = sorted(set(form.columns) - taught - names)
        if unused:
            notes.append(f"data.label_columns: no text has the labels {quoted(unused)}; they are left out")
        untaught = sorted(names - taught)
        if untaught:
            notes.append(
                f"{len(untaught):,} label{'s are' if len(untaught) > 1 else ' is'} not in train, so that no model can "
                f"learn {'them' if len(untaught) > 1 else 'it'}; {self.left_out}: "
                f"{_first_few([self._where(name, splits, taught) for name in untaught])}"
            )
        kept = [self._renamed(split, dict.fromkeys(untaught)) for split in splits]
        counts = {split.name: Counter(self._names(split)) for split in kept}
        for split, before in zip(kept, splits, strict=True):
            if not counts[split.name]:
                raise DataError(
                    f"{split.origin}: no label of the {split.name} split is in train; it has "
                    f"{quoted(sorted(set(self._names(before))), 5)}, train has {quoted(sorted(taught), 5)}; give all "
                    "splits the same labels, or check data.label_column"
                )
        partial = sorted(name for name in names & taught if any(not each[name] for each in counts.values()))
        if partial:
            shares = [
                f"{shown(name)} ({', '.join(f'{split} {counts[split][name]:,}' for split in SPLITS)})"
                for name in partial
            ]
            notes.append(
                f"{len(partial):,} of {len(taught):,} labels {'is' if len(partial) == 1 else 'are'} not in every "
                f"split, and not measured where {'it is' if len(partial) == 1 else 'they are'} missing: "
                f"{_first_few(shares)}; data.min_examples_per_label and data.rare drop or merge such labels"
            )
        return kept

    def output_names(self, labels: Sequence[Any], form: LabelFormat) -> list[str]:
        """Return the sorted names of these labels."""
        return sorted({name for label in labels for name in self.names_in(label)})

    def _names(self, split: Split) -> list[str]:
        return [name for label in split.labels for name in self.names_in(label)]

    def _renamed(self, split: Split, new: Mapping[str, str | None]) -> Split:
        """Return a split with new names for some labels, without the rows that are then left out."""
        if not new:
            return split
        labels = [self.renamed(label, new) for label in split.labels]
        kept = [i for i, label in enumerate(labels) if label is not None]
        split = replace(split, labels=labels)
        return split if len(kept) == len(labels) else split.select(kept)

    def _rows(self, name: str, splits: list[Split]) -> str:
        """Return the count and first place of a label's rows."""
        places = [
            (split, row)
            for split in splits
            for row, label in enumerate(split.labels)
            if name in self.names_in(label)
        ]
        split, row = places[0]
        place = f"{split.origin} {split.place(row)}"
        return f"1 row: {place}" if len(places) == 1 else f"{len(places):,} rows, the first: {place}"

    def _where(self, name: str, splits: list[Split], taught: set[str]) -> str:
        """Describe which splits have a label that train lacks, and the nearest label of train."""
        having = " and ".join(split.name for split in splits if name in self._names(split))
        hint = nearest(name, taught).replace("; nearest", ", nearest in train")
        return f"{shown(name)} only in {having} ({self._rows(name, splits)}{hint})"


def _key(label: str) -> str:
    """Return a label's key, which is equal for labels that differ only in case, white space or Unicode form."""
    return unicodedata.normalize("NFC", " ".join(unicodedata.normalize("NFD", label).casefold().split()))


def _invisible(name: str, spellings: Sequence[str]) -> bool:
    """Return whether a label looks the same as another spelling when both are printed."""
    return any(
        name != each and unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", each)
        for each in spellings
    )


def _first_few(names: list[str]) -> str:
    rest = len(names) - NUM_SHOWN
    return "; ".join(names[:NUM_SHOWN]) + (f"; and {rest:,} more" if rest > 0 else "")
