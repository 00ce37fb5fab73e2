"""Hold validation and test parts out of the training texts: stratified, grouped, and independent of file order."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...errors import DataError, shown
from ...texts import TextOrPair, parts_of
from .rows import normalised

Labels = str | tuple[str, ...]
"""The label of a row, or several."""

TRAIN = "train"
_NO_QUOTA = 0.25
"""Rows that count as the quota of a split without one: any other split is preferred, unless a group is indivisible."""


@dataclass(frozen=True, eq=False)
class _Unit:
    """Rows that must not be separated.

    Attributes:
        rows: Their numbers.
        counts: Number of them by label.
        place: Hash that orders the units.
        num_rarest: Number of all rows that have the rarest of its labels; 0 where each row has one label.
    """

    rows: list[int]
    counts: dict[str, int]
    place: bytes
    num_rarest: int = 0


def hold_out(
    texts: Sequence[TextOrPair],
    labels: Sequence[Labels],
    groups: Sequence[str | None],
    shares: Mapping[str, float],
    seed: int,
    further: Sequence[str | None] | None = None,
) -> dict[str, list[int]]:
    """Divide N rows into train and held-out splits.

    Rows with equal text, up to case and white space, and rows of one group stay together. If no rows do and each row
    has one label, each held-out split has its share of every label to within one row. Rows with several labels are
    divided by iterative stratification: those with the rarest label first, each to the split that lacks its labels
    most. Every label keeps a row in train. Rows are ordered by a hash of seed and content, so that the result depends
    on neither file order nor process.

    Args:
        texts: One text or pair per row.
        labels: One label per row, or a tuple of one or more.
        groups: Group of each row, or None for a row that is in none.
        shares: Share of all rows by name of the held-out split; together below 1.
        seed: Seed of the division.
        further: A second group of each row, likewise; None: there are no second groups.

    Returns:
        Ascending row numbers by split: ``train`` and each name in ``shares``. A held-out split is empty if the rows
        are too few, or their groups too large.
    """
    units = _units(texts, labels, [groups] if further is None else [groups, further], seed)
    quotas = _quotas(Counter(name for own in labels for name in _names(own)), shares, seed)
    splits = _assign(units, quotas)
    _teach_every_label(splits)
    for name in shares:
        if not splits[name]:
            _move_one(splits, name)
    return {name: sorted(row for unit in members for row in unit.rows) for name, members in splits.items()}


def folds(texts: Sequence[TextOrPair], labels: Sequence[str], num_folds: int, seed: int) -> list[list[int]]:
    """Divide N rows into folds of similar size, stratified by label; rows with equal text stay together.

    The division depends on neither the order of the rows nor the process. Every label has a row outside of each fold.

    Args:
        texts: One text per row; texts are equal if they differ only in case and white space.
        labels: One label per row.
        num_folds: Number of folds, at least 2.
        seed: Seed of the division.

    Returns:
        Ascending row numbers of each fold; each row is in one of them.

    Raises:
        DataError: A label has fewer distinct texts than there are folds, or shares all of them with other labels.
    """
    units = _units(texts, labels, [], seed)
    distinct = Counter(label for unit in units for label in unit.counts)
    _check_folds(distinct, num_folds)
    rows: list[list[int]] = [[] for _ in range(num_folds)]
    filled = [Counter[str]() for _ in range(num_folds)]
    for unit in sorted(units, key=lambda unit: -len(unit.rows)):
        fold = min(
            range(num_folds),
            key=lambda fold, unit=unit: (
                sum(n * filled[fold][label] for label, n in unit.counts.items()),
                len(rows[fold]),
            ),
        )
        rows[fold] += unit.rows
        filled[fold].update(unit.counts)
    places = Counter(label for counts in filled for label in counts)
    _check_folds({label: 1 for label, num in places.items() if num < 2}, num_folds)
    return [sorted(fold) for fold in rows]


def _check_folds(distinct: Mapping[str, int], num_folds: int) -> None:
    """Reject a number of folds that a label has too few distinct texts for."""
    label, fewest = min(distinct.items(), key=lambda each: (each[1], each[0]), default=("", num_folds))
    if fewest >= num_folds:
        return
    texts = f"{fewest} distinct training text{'s' if fewest > 1 else ''} of its own"
    accepted = f"accepted: 2 to {fewest}" if fewest >= 2 else "at least 2 are needed"
    raise DataError(
        f"data.diagnostics.cross_fit: {num_folds} given, but the label {shown(label)} has {texts} ({accepted}); lower "
        f"it, give that label more texts, or leave it out (data.min_examples_per_label with data.rare)"
    )


def hashed(seed: int, *values: str) -> bytes:
    """Return a hash (8 bytes) of a seed and texts, equal in every process."""
    return hashlib.blake2b("\0".join((str(seed), *values)).encode(), digest_size=8).digest()


def _names(labels: Labels) -> tuple[str, ...]:
    return (labels,) if isinstance(labels, str) else labels


def _units(
    texts: Sequence[TextOrPair], labels: Sequence[Labels], groups: Sequence[Sequence[str | None]], seed: int
) -> list[_Unit]:
    """Return units of rows that share a text or a group, ordered by hash."""
    names = [_names(own) for own in labels]
    one_each = all(len(own) == 1 for own in names)
    totals = Counter(name for own in names for name in own)
    keys: list[list[tuple[str, str | None]]] = [[("text", normalised(text))] for text in texts]
    for number, each in enumerate(groups):
        for own, group in zip(keys, each, strict=True):
            own.append((f"group {number}", group))
    find = _connected(keys)
    members: defaultdict[int, list[int]] = defaultdict(list)
    for row in range(len(texts)):
        members[find(row)].append(row)
    units = []
    for rows in members.values():
        counts: dict[str, int] = {}
        for name in (name for row in rows for name in names[row]):
            counts[name] = counts.get(name, 0) + 1
        place = min(hashed(seed, *names[row], *parts_of(texts[row])) for row in rows)
        units.append(_Unit(rows, counts, place, 0 if one_each else min(totals[name] for name in counts)))
    return sorted(units, key=lambda unit: unit.place)


def _connected(keys: Sequence[Iterable[tuple[str, str | None]]]) -> Callable[[int], int]:
    """Join rows that share a key (union-find); return a function from a row to the first row joined with it."""
    parents = list(range(len(keys)))
    first: dict[tuple[str, str | None], int] = {}

    def find(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for row, own in enumerate(keys):
        for key in own:
            if key[1] is not None:
                one, other = sorted((find(row), find(first.setdefault(key, row))))
                parents[other] = one
    return find


def _quotas(counts: Counter[str], shares: Mapping[str, float], seed: int) -> dict[str, dict[str, int]]:
    """Return the number of rows of each label that each split should have.

    Rounding is cumulative over the labels, in a different order for each split: a label's number is its share rounded
    up or down, and the labels together have the split's share of all rows.
    """
    quotas: dict[str, dict[str, int]] = {}
    for name, share in shares.items():
        quotas[name], total, given = {}, 0, 0
        for label in sorted(counts, key=lambda label, name=name: hashed(seed, name, label)):
            total += counts[label] if counts[label] > 1 else 0  # the only row of a label is for training
            quotas[name][label] = math.floor(total * share + 0.5 + 1e-9) - given
            given += quotas[name][label]
    for label, count in counts.items():
        while sum(quotas[name][label] for name in shares) >= count:  # each label keeps a row in train
            excess = {
                name: quotas[name][label] - count * share
                for name, share in shares.items()
                if quotas[name][label]
            }
            quotas[max(excess, key=excess.__getitem__)][label] -= 1
    return {
        TRAIN: {label: n - sum(quotas[s][label] for s in shares) for label, n in counts.items()},
        **quotas,
    }


def _assign(units: list[_Unit], quotas: dict[str, dict[str, int]]) -> dict[str, list[_Unit]]:
    """Assign each unit, large and rare ones first, to the split that is filled least in proportion to its quotas.

    Single rows fill every quota exactly: this is Sainte-Laguë's method with the quotas as votes.
    """
    splits: dict[str, list[_Unit]] = {name: [] for name in quotas}
    filled = {name: dict.fromkeys(own, 0) for name, own in quotas.items()}
    votes = {name: {label: n or _NO_QUOTA for label, n in own.items()} for name, own in quotas.items()}
    for unit in sorted(units, key=lambda unit: (-len(unit.rows), unit.num_rarest)):
        costs = {
            name: sum(
                n * (2 * filled[name][label] + n) / votes[name][label] for label, n in unit.counts.items()
            )
            for name in quotas
        }
        name = min(costs, key=costs.__getitem__)
        splits[name].append(unit)
        for label, n in unit.counts.items():
            filled[name][label] += n
    return splits


def _teach_every_label(splits: dict[str, list[_Unit]]) -> None:
    """Move the first unit of each label that train lacks to train."""
    taught = {label for unit in splits[TRAIN] for label in unit.counts}
    for name in [name for name in splits if name != TRAIN]:
        for unit in list(splits[name]):
            if not taught.issuperset(unit.counts):
                splits[name].remove(unit)
                splits[TRAIN].append(unit)
                taught.update(unit.counts)


def _move_one(splits: dict[str, list[_Unit]], name: str) -> None:
    """Move a unit of train to an empty split: the smallest without which train keeps every label, if there is one."""
    counts: Counter[str] = Counter()
    for unit in splits[TRAIN]:
        counts.update(unit.counts)
    for unit in sorted(splits[TRAIN], key=lambda unit: (len(unit.rows), unit.place)):
        if all(counts[label] > n for label, n in unit.counts.items()):
            splits[TRAIN].remove(unit)
            splits[name].append(unit)
            return
