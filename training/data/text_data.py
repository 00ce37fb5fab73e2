"""The labelled texts of a job: three splits, ordered label names, and a fingerprint."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import datasets

from ...errors import DataError, shown
from .config import DataConfig
from .labels import unified_labels, without_rare, without_untaught
from .rows import SPLITS, Split, checked, collect, nearest, quoted
from .splitting import hashed, hold_out
from .unlabelled import read_unlabelled

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextData:
    """Checked texts and labels of a job.

    Attributes:
        splits: ``train``, ``validation``, ``test``; columns ``text`` (string) and ``label`` (ClassLabel, the
            same names in the same order in each).
        out_of_scope_label: Name of the label for texts outside every intent; None where there is none.
        unlabelled: Distinct texts without a label that are in none of the splits, in random order: a prefix is a
            smaller draw.
        slices: Values of the columns ``data.slice_columns`` for each text of the test split, None where a row has none.
    """

    splits: datasets.DatasetDict
    out_of_scope_label: str | None
    unlabelled: list[str] = field(default_factory=list)
    slices: dict[str, list[str | None]] = field(default_factory=dict)

    @property
    def label_names(self) -> list[str]:
        """Sorted names of the labels; a label's number is its index in this list.

        An out-of-scope label that no training text has comes last.
        """
        return list(self.splits["train"].features["label"].names)

    @cached_property
    def class_names(self) -> list[str]:
        """Names of a model's classes: the labels without an out-of-scope label that no training text has."""
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
            add(*(names[label] for label in self.splits[split]["label"][:]))
        return digest.hexdigest()


def load_data(config: DataConfig) -> TextData:
    """Read and check the splits that ``config`` names, and hold out of train those that it does not name.

    Rows without a text, and rows whose label train does not have, are dropped; texts that occur in more than one split
    are kept. Each is counted in a logged warning.

    Raises:
        DataError: The data is invalid; gives file, row and remedy.
    """
    notes: list[str] = []
    given = collect([lambda raw=raw: checked(raw, notes) for raw in config.read()])
    given = unified_labels(given)
    out_of_scope = _out_of_scope_label(config, sorted({label for split in given for label in split.labels}))
    splits = _completed(without_rare(given, config, out_of_scope, notes), config)
    splits = without_untaught(splits, out_of_scope, notes)
    names = sorted(set(splits[0].labels))
    if out_of_scope is not None and out_of_scope not in names:
        names.append(out_of_scope)  # last, so that a model's class ids equal the label ids
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    )
    number_of = {name: number for number, name in enumerate(names)}
    made = datasets.DatasetDict()
    for split in splits:
        indices = range(len(split.texts))
        if split.name == "train" and config.max_train_examples is not None:
            indices = _draw(split, config.max_train_examples, config.seed)
        columns = {
            "text": [split.texts[i] for i in indices],
            "label": [number_of[split.labels[i]] for i in indices],
        }
        made[split.name] = datasets.Dataset.from_dict(columns, features=features)
    unlabelled = [] if config.unlabelled is None else read_unlabelled(config.unlabelled, made)
    for note in [*notes, *_duplicates(splits)]:
        logger.warning("%s", note)
    slices = next(split.slices for split in splits if split.name == "test")
    return TextData(made, out_of_scope, unlabelled, slices)


def _completed(given: list[Split], config: DataConfig) -> list[Split]:
    """Return train, validation and test; those that are not given are held out of train.

    Raises:
        DataError: Train has too few texts, or too large groups, to hold out a split.
    """
    splits = {split.name: split for split in given}
    train, shares = splits["train"], config.split
    missing = {name: getattr(shares, name) for name in SPLITS[1:] if name not in splits}
    if not missing:
        return [splits[name] for name in SPLITS]
    rows = hold_out(train.texts, train.labels, train.groups, missing, shares.seed)
    for name in missing:
        if not rows[name]:
            raise DataError(
                f"{train.origin}: no text can be held out for the {name} split (data.split.{name}: {missing[name]:g} "
                f"of {len(train.texts):,} texts): each label keeps one in train, and equal texts and groups are not "
                f"separated; give more texts, or a {name} split"
            )
    splits |= {name: train.select(indices, name) for name, indices in rows.items()}
    return [splits[name] for name in SPLITS]


def _duplicates(splits: list[Split]) -> list[str]:
    """Return the warning that counts the texts in more than one split, if there are any."""
    texts = {split.name: set(split.texts) for split in splits}
    shared = {(a, b): texts[a] & texts[b] for a, b in combinations(SPLITS, 2)}
    everywhere: set[str] = set().union(*shared.values())
    if not everywhere:
        return []
    pairs = ", ".join(f"{a} and {b}: {len(both):,}" for (a, b), both in shared.items() if both)
    example = min(everywhere)
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


def _draw(split: Split, num_examples: int, seed: int) -> list[int]:
    """Return ascending indices of ``num_examples`` rows; every label keeps its share and at least one row.

    Rows are ordered by a hash of seed and content, so the draw depends on neither file order nor process,
    and a smaller draw is a subset of a larger one.
    """
    counts = Counter(split.labels)
    if num_examples < len(counts):
        raise DataError(
            f"data.max_train_examples: {num_examples:,} is less than the {len(counts):,} labels of "
            f"{split.origin}; give at least {len(counts):,}, one text per label"
        )

    rows: defaultdict[str, list[int]] = defaultdict(list)
    for index in sorted(
        range(len(split.texts)), key=lambda i: (hashed(seed, split.labels[i], split.texts[i]), i)
    ):
        rows[split.labels[index]].append(index)
    # Relative rank of each row within its label; taking the lowest keeps each label's share.
    ranked = [
        ((place + 0.5) / counts[label] if place else -1.0, hashed(seed, label), index)
        for label, indices in rows.items()
        for place, index in enumerate(indices)
    ]
    return sorted(index for *_, index in sorted(ranked)[:num_examples])
