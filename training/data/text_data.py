"""The labelled texts of a job: three splits, ordered label names, and a fingerprint."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import datasets

from ...errors import DataError, shown
from ...texts import PAIR_COLUMN, TextOrPair, parts_of
from .config import DataConfig
from .label_kinds import NAMES, LabelKind
from .rows import SPLITS, Split, checked, collect, nearest, quoted
from .splitting import hashed, hold_out
from .unlabelled import read_unlabelled

logger = logging.getLogger(__name__)

ID_COLUMN = "id"
"""Column of the splits with the id of each row, where the data has them."""


@dataclass(frozen=True)
class TextData:
    """Checked texts and labels of a job.

    Attributes:
        splits: ``train``, ``validation``, ``test``; columns ``text`` (string), ``text_pair`` (string) where texts are
            pairs, ``id`` (string) where rows have ids, and ``label`` (as ``label_kind`` stores it, with the same names
            in the same order in all splits).
        out_of_scope_label: Name of the label for texts outside every intent; None where there is none.
        unlabelled: Distinct texts without a label that are in none of the splits, in random order: a prefix is a
            smaller draw.
        slices: Values of the columns ``data.slice_columns`` for each text of the test split, None where a row has none.
        label_kind: Kind of the labels.
        output_names: ``label_names``, where the column ``label`` does not hold them.
    """

    splits: datasets.DatasetDict
    out_of_scope_label: str | None
    unlabelled: list[TextOrPair] = field(default_factory=list)
    slices: dict[str, list[str | None]] = field(default_factory=dict)
    label_kind: LabelKind = NAMES
    output_names: tuple[str, ...] | None = None

    @property
    def has_pairs(self) -> bool:
        """Whether each text is a pair of texts."""
        return PAIR_COLUMN in self.splits["train"].column_names

    @property
    def label_names(self) -> list[str]:
        """Sorted names of the labels, or names of the numbers that are predicted; a label's id is its index.

        An out-of-scope label that no training text has comes last.
        """
        if self.output_names is not None:
            return list(self.output_names)
        return list(self.splits["train"].features["label"].names)

    @cached_property
    def class_names(self) -> list[str]:
        """Names of a model's outputs: the labels without an out-of-scope label that no training text has."""
        if self.out_of_scope_label is None:
            return self.label_names
        taught = set(self.splits["train"]["label"][:])
        return [name for number, name in enumerate(self.label_names) if number in taught]

    @property
    def out_of_scope_id(self) -> int | None:
        """Number of the out-of-scope label; None where there is none."""
        return None if self.out_of_scope_label is None else self.label_names.index(self.out_of_scope_label)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of label names, out-of-scope label, and the texts and labels of all splits in order.

        The same content gives the same value in every process and from every source or file format; slices, which no
        model reads, do not change it.
        """
        digest = hashlib.sha256()

        def add(*values: str) -> None:
            digest.update(len(values).to_bytes(8, "little"))
            for value in values:
                content = value.encode("utf-8")
                digest.update(len(content).to_bytes(8, "little") + content)

        names = self.label_names
        add(*names)
        add(*([] if self.out_of_scope_label is None else [self.out_of_scope_label]))
        for split in SPLITS:
            add(*self.splits[split]["text"][:])
            if self.has_pairs:
                add(*self.splits[split][PAIR_COLUMN][:])
            add(*(self.label_kind.text(label, names) for label in self.splits[split]["label"][:]))
        return digest.hexdigest()


def load_data(config: DataConfig, kind: LabelKind = NAMES) -> TextData:
    """Read and check the splits that ``config`` names, and hold the others out of train.

    Rows without a text, and rows whose label train does not have, are dropped; texts that occur in more than one split
    are kept. Each is counted in a logged warning.

    Args:
        config: The section ``data``.
        kind: Kind of the task's labels.

    Raises:
        DataError: The data is invalid; gives file, row and remedy.
    """
    notes: list[str] = []
    form = config.label_format
    read, remedy = kind.reader(form), kind.remedy(form)
    given = collect(
        [lambda raw=raw: checked(kind.prepared(raw), notes, read, remedy) for raw in config.read()]
    )
    given = kind.unified(given)
    _check_ids(given)
    out_of_scope = None
    if kind.has_out_of_scope:
        used = {name for split in given for label in split.labels for name in kind.names_in(label)}
        out_of_scope = _out_of_scope_label(config, sorted(used))
    given = kind.without_rare(given, config.min_examples_per_label, config.rare, out_of_scope, notes)
    splits = kind.without_untaught(_completed(given, config, kind), form, out_of_scope, notes)
    names = kind.output_names(splits[0].labels, form)
    if out_of_scope is not None and out_of_scope not in names:
        names.append(out_of_scope)  # last, so that a model's class ids equal the label ids
    stored = _stored(splits, config, kind, names)
    unlabelled = [] if config.unlabelled is None else read_unlabelled(config.unlabelled, stored)
    for note in [*notes, *_duplicates(splits)]:
        logger.warning("%s", note)
    slices = next(split.slices for split in splits if split.name == "test")
    return TextData(stored, out_of_scope, unlabelled, slices, kind, tuple(names))


def _stored(
    splits: list[Split], config: DataConfig, kind: LabelKind, names: list[str]
) -> datasets.DatasetDict:
    """Return the splits as datasets with labels of these names, train cut to ``data.max_train_examples``."""
    columns = dict.fromkeys(
        ("text", PAIR_COLUMN)[: len(parts_of(splits[0].texts[0]))], datasets.Value("string")
    )
    ids = {} if splits[0].ids is None else {ID_COLUMN: datasets.Value("string")}
    features = datasets.Features({**columns, **ids, "label": kind.feature(names)})
    number_of = {name: number for number, name in enumerate(names)}
    stored = datasets.DatasetDict()
    for split in splits:
        indices = range(len(split.texts))
        if split.name == "train" and config.max_train_examples is not None:
            indices = _draw(split, config.max_train_examples, config.seed, kind)
        values = {
            name: [parts_of(split.texts[i])[place] for i in indices] for place, name in enumerate(columns)
        }
        if split.ids is not None:
            values[ID_COLUMN] = [split.ids[i] for i in indices]
        labels = [kind.stored(split.labels[i], number_of) for i in indices]
        stored[split.name] = datasets.Dataset.from_dict({**values, "label": labels}, features=features)
    return stored


def _completed(given: list[Split], config: DataConfig, kind: LabelKind) -> list[Split]:
    """Return train, validation and test; a split that is not given is held out of train.

    Raises:
        DataError: Train has too few texts, or too large groups, to hold out a split.
    """
    splits = {split.name: split for split in given}
    train, shares = splits["train"], config.split
    missing = {name: getattr(shares, name) for name in SPLITS[1:] if name not in splits}
    if not missing:
        return [splits[name] for name in SPLITS]
    strata, further = kind.strata(train.labels), kind.groups(train)
    rows = hold_out(train.texts, strata, train.groups, missing, shares.seed, further)
    for name in missing:
        if not rows[name]:
            raise DataError(
                f"{train.origin}: no text can be held out for the {name} split (data.split.{name}: {missing[name]:g} "
                f"of {len(train.texts):,} texts): each label keeps one in train, and equal texts and groups are not "
                f"separated; give more texts, or a {name} split"
            )
    splits |= {name: train.select(indices, name) for name, indices in rows.items()}
    return [splits[name] for name in SPLITS]


def _check_ids(splits: list[Split]) -> None:
    """Reject an id that two rows have.

    Raises:
        DataError: Gives the first id and both rows.
    """
    seen: dict[str, str] = {}
    for split in splits:
        for row, name in enumerate(split.ids or ()):
            place = f"{split.origin} {split.place(row)}"
            if name in seen:
                raise DataError(
                    f"data.id_column: {shown(name)} is the id of two rows ({seen[name]} and {place}); give each row an "
                    "id of its own, or remove the key"
                )
            seen[name] = place


def _duplicates(splits: list[Split]) -> list[str]:
    """Return the warning that counts the texts in more than one split, if there are any."""
    texts = {split.name: set(split.texts) for split in splits}
    shared = {(a, b): texts[a] & texts[b] for a, b in combinations(SPLITS, 2)}
    everywhere: set[TextOrPair] = set().union(*shared.values())
    if not everywhere:
        return []
    pairs = ", ".join(f"{a} and {b}: {len(both):,}" for (a, b), both in shared.items() if both)
    example = min(everywhere, key=parts_of)
    places = ", ".join(
        f"{split.name} in {split.origin} {split.place(split.texts.index(example))}"
        for split in splits
        if example in texts[split.name]
    )
    count = f"{len(everywhere):,} text{'s are' if len(everywhere) > 1 else ' is'}"
    return [
        f"{count} in more than one split ({pairs}), such as {shown(example)} ({places}); results measured on them are "
        "too optimistic: remove them from one"
    ]


def _out_of_scope_label(config: DataConfig, names: list[str]) -> str | None:
    named = config.out_of_scope_label
    if named is None:
        default = config.default_out_of_scope_label
        return default if default in names else None
    if named not in names:
        raise DataError(
            f"data.out_of_scope_label: no row has the label {named!r}{nearest(named, names)}; "
            f"labels: {quoted(names)}; use one of them, or remove the key if the data has none"
        )
    return named


def _draw(split: Split, num_examples: int, seed: int, kind: LabelKind) -> list[int]:
    """Return ascending indices of ``num_examples`` rows; each stratum keeps its share, each label at least one row.

    Rows are ordered by a hash of seed and content, so the draw depends on neither file order nor process,
    and a smaller draw is a subset of a larger one. A row with several labels counts for the rarest of them.
    """
    strata = kind.strata(split.labels)
    totals = Counter(name for own in strata for name in own)
    if num_examples < len(totals) and kind.strata_are_labels:
        raise DataError(
            f"data.max_train_examples: {num_examples:,} is less than the {len(totals):,} labels of "
            f"{split.origin}; give at least {len(totals):,}, one text per label"
        )

    rows: defaultdict[str, list[int]] = defaultdict(list)
    for index in sorted(
        range(len(split.texts)), key=lambda i: (hashed(seed, *strata[i], *parts_of(split.texts[i])), i)
    ):
        rows[min(strata[index], key=lambda name: (totals[name], name))].append(index)
    taught = _first_rows(rows, strata, totals)
    # Relative rank of each row within its stratum; taking the lowest keeps each stratum's share.
    ranked = [
        ((place + 0.5) / len(indices) if index not in taught else -1.0, hashed(seed, name), index)
        for name, indices in rows.items()
        for place, index in enumerate(indices)
    ]
    return sorted(index for *_, index in sorted(ranked)[:num_examples])


def _first_rows(
    rows: Mapping[str, Sequence[int]], strata: Sequence[tuple[str, ...]], totals: Mapping[str, int]
) -> set[int]:
    """Return a row of every label: the first of each stratum, and of each label that no such row has."""
    found = {indices[0] for indices in rows.values()}
    covered = {name for index in found for name in strata[index]}
    ordered = [index for indices in rows.values() for index in indices]
    for name in totals:
        if name not in covered:
            index = next(index for index in ordered if name in strata[index])
            found.add(index)
            covered.update(strata[index])
    return found
