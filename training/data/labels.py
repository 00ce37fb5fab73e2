"""The labels of a job's splits: one spelling each, rare ones, and those that cannot be learned or measured."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from ...errors import DataError, shown
from .rows import NUM_SHOWN, SPLITS, Split, nearest, quoted
from .sources.base import DataConfig

OTHER: Final = "other"
"""Label that rare labels are merged into."""

_WHOLE = re.compile(r"-?\d+(\.0+)?")


def unified_labels(splits: list[Split]) -> list[Split]:
    """Return the splits with whole numbers written without decimals, if every label is one, as pandas writes them.

    Raises:
        DataError: Two labels differ in case, white space or Unicode form alone.
    """
    names = {label for split in splits for label in split.labels}
    if all(_WHOLE.fullmatch(name) for name in names):
        splits = [
            replace(split, labels=[label.partition(".")[0] for label in split.labels]) for split in splits
        ]
        names = {name.partition(".")[0] for name in names}
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        alike[_key(name)].append(name)
    wrong = [spellings for spellings in alike.values() if len(spellings) > 1]
    if wrong:
        first = "; ".join(
            " and ".join(
                f"{ascii(name) if _invisible(name, spellings) else shown(name)} ({_rows(name, splits)})"
                for name in spellings
            )
            for spellings in wrong[:NUM_SHOWN]
        )
        more = f"; and {len(wrong) - NUM_SHOWN:,} more" if len(wrong) > NUM_SHOWN else ""
        raise DataError(
            f"labels that differ only in case, white space or Unicode form: {first}{more}; write each label in one way"
        )
    return splits


def without_rare(
    splits: list[Split], config: DataConfig, out_of_scope: str | None, notes: list[str]
) -> list[Split]:
    """Keep, drop or merge the labels with fewer than ``data.min_examples_per_label`` texts in all splits together.

    The out-of-scope label is kept.

    Args:
        splits: The checked splits.
        config: The ``data`` section.
        out_of_scope: The out-of-scope label, or None.
        notes: A warning that names and counts them is appended.
    """
    least = config.min_examples_per_label
    counts = Counter(label for split in splits for label in split.labels)
    rare = sorted(name for name, count in counts.items() if count < least and name != out_of_scope)
    if not rare:
        return splits
    other = next((name for name in counts if _key(name) == OTHER), OTHER)
    notes.append(
        f"data.min_examples_per_label: {len(rare):,} of {len(counts):,} labels "
        f"{'has' if len(rare) == 1 else 'have'} fewer than {least:,} texts and "
        f"{'is' if len(rare) == 1 else 'are'} {_TREATED[config.rare](other)}: "
        f"{_listed([f'{shown(name)} ({counts[name]:,})' for name in rare])}"
    )
    if config.rare == "drop":
        return [
            _filtered(split, lambda label: counts[label] >= least or label == out_of_scope)
            for split in splits
        ]
    if config.rare == "other":
        new = dict.fromkeys(rare, other)
        return [replace(split, labels=[new.get(label, label) for label in split.labels]) for split in splits]
    return splits


def without_untaught(splits: list[Split], out_of_scope: str | None, notes: list[str]) -> list[Split]:
    """Drop the validation and test rows whose label no training row has; note every label that a split lacks.

    The out-of-scope label is kept: a threshold can predict it.

    Args:
        splits: Train, validation and test.
        out_of_scope: The out-of-scope label, or None.
        notes: Warnings that name and count the labels and rows are appended.

    Raises:
        DataError: Train has a single label, or a split has no rows left.
    """
    taught = {label for split in splits if split.name == "train" for label in split.labels}
    if len(taught) < 2:
        raise DataError(
            f"{splits[0].origin}: the only label is {quoted(taught)}; a classifier needs two or more; "
            "check data.label_column"
        )
    names = {label for split in splits for label in split.labels} - {out_of_scope}
    untaught = sorted(names - taught)
    if untaught:
        notes.append(
            f"{len(untaught):,} label{'s are' if len(untaught) > 1 else ' is'} not in train, so that no model can "
            f"learn {'them' if len(untaught) > 1 else 'it'}; the rows are dropped: "
            f"{_listed([_where(name, splits, taught) for name in untaught])}"
        )
    kept = [_filtered(split, lambda label: label in taught or label == out_of_scope) for split in splits]
    for split, before in zip(kept, splits, strict=True):
        if not split.labels:
            raise DataError(
                f"{split.origin}: no label of the {split.name} split is in train; it has "
                f"{quoted(sorted(set(before.labels)), 5)}, train has {quoted(sorted(taught), 5)}; give all splits the "
                "same labels, or check data.label_column"
            )
    counts = {split.name: Counter(split.labels) for split in kept}
    partial = sorted(name for name in names & taught if any(not each[name] for each in counts.values()))
    if partial:
        shares = [
            f"{shown(name)} ({', '.join(f'{split} {counts[split][name]:,}' for split in SPLITS)})"
            for name in partial
        ]
        notes.append(
            f"{len(partial):,} of {len(taught):,} labels {'is' if len(partial) == 1 else 'are'} not in every split, "
            f"and not measured where {'it is' if len(partial) == 1 else 'they are'} missing: {_listed(shares)}; "
            "data.min_examples_per_label and data.rare drop or merge such labels"
        )
    return kept


_TREATED: dict[str, Callable[[str], str]] = {
    "keep": lambda _: "kept (data.rare)",
    "drop": lambda _: "dropped with their texts",
    "other": lambda other: f"merged into {shown(other)}",
}


def _filtered(split: Split, keep: Callable[[str], bool]) -> Split:
    kept = [i for i, label in enumerate(split.labels) if keep(label)]
    return split if len(kept) == len(split.labels) else split.select(kept)


def _key(label: str) -> str:
    """Return what labels have in common that differ only in case, white space or Unicode form."""
    return unicodedata.normalize("NFC", " ".join(unicodedata.normalize("NFD", label).casefold().split()))


def _invisible(name: str, spellings: Sequence[str]) -> bool:
    """Return whether a label looks like another spelling when it is printed."""
    return any(
        name != each and unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", each)
        for each in spellings
    )


def _rows(label: str, splits: list[Split]) -> str:
    """Return the count and first place of a label's rows."""
    having = [split for split in splits if label in split.labels]
    place = f"{having[0].origin} {having[0].place(having[0].labels.index(label))}"
    count = sum(split.labels.count(label) for split in having)
    return f"1 row: {place}" if count == 1 else f"{count:,} rows, the first: {place}"


def _where(label: str, splits: list[Split], taught: set[str]) -> str:
    having = " and ".join(split.name for split in splits if label in split.labels)
    hint = nearest(label, taught).replace("; nearest", ", nearest in train")
    return f"{shown(label)} only in {having} ({_rows(label, splits)}{hint})"


def _listed(names: list[str]) -> str:
    rest = len(names) - NUM_SHOWN
    return "; ".join(names[:NUM_SHOWN]) + (f"; and {rest:,} more" if rest > 0 else "")
