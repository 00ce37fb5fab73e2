"""Samplers that group texts by length or by label, and draw every class equally often.

transformers' own grouped sampler draws from the global generator, so a run resumed inside an epoch has a
different order from the uninterrupted one; it reads every row of the dataset to get the lengths; and it
leaves the rows of ``predict`` in sorted order. These samplers avoid all three.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from ..ragged import Ragged, Rows
from .tokenized import IGNORED_LABEL

_GROUPS_PER_WINDOW = 50


class SeededSampler(Sampler[int]):
    """Sampler of N rows, whose order depends only on ``seed`` and the epoch.

    Args:
        num_rows: N.
        seed: Seed of the order.
    """

    def __init__(self, num_rows: int, seed: int) -> None:
        self.num_rows = num_rows
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch (called by accelerate's data loader)."""
        self.epoch = epoch

    def random(self) -> np.random.Generator:
        """Return the generator of the epoch."""
        return np.random.default_rng((self.seed, self.epoch))

    def __len__(self) -> int:
        return self.num_rows


class LengthGroupedSampler(SeededSampler):
    """Sample in a random order in which every ``group_size`` consecutive texts have similar lengths.

    Texts are shuffled, cut into windows of 50 groups, sorted by length inside a window, cut into groups, and
    the groups are shuffled; the longest comes first, so that memory runs out at once or never.

    Args:
        lengths: Tokens of each text, int[N].
        group_size: Number of texts of similar lengths.
        seed: Seed of the order.
        classes: Class of each text, int[N]; texts are drawn as by ``balanced_rows``. None: each text once per epoch.
    """

    def __init__(
        self, lengths: np.ndarray, group_size: int, seed: int, classes: np.ndarray | None = None
    ) -> None:
        super().__init__(len(lengths), seed)
        self.lengths = np.asarray(lengths)
        self.group_size = group_size
        self.classes = classes

    def __iter__(self) -> Iterator[int]:
        random = self.random()
        classes = self.classes
        order = random.permutation(len(self.lengths)) if classes is None else balanced_rows(classes, random)
        # At least four windows, as in transformers; else a small set would be fully sorted every epoch.
        groups_per_window = max(1, min(len(order) // (self.group_size * 4), _GROUPS_PER_WINDOW))
        window = self.group_size * groups_per_window
        parts = [order[start : start + window] for start in range(0, len(order), window)]
        sorted_parts = [part[np.argsort(-self.lengths[part], kind="stable")] for part in parts]
        order = np.concatenate(sorted_parts) if sorted_parts else order
        num_full = len(order) // self.group_size
        groups = order[: num_full * self.group_size].reshape(num_full, self.group_size)
        if num_full:
            groups = groups[random.permutation(num_full)]
            longest = int(self.lengths[groups].max(axis=1).argmax())
            groups[[0, longest]] = groups[[longest, 0]]
        return iter([*groups.ravel().tolist(), *order[num_full * self.group_size :].tolist()])


class BalancedSampler(SeededSampler):
    """Sample as ``balanced_rows`` draws, anew in each epoch, regardless of length.

    Args:
        classes: Class of each text, int[N].
        seed: Seed of the draws.
    """

    def __init__(self, classes: np.ndarray, seed: int) -> None:
        super().__init__(len(classes), seed)
        self.classes = classes

    def __iter__(self) -> Iterator[int]:
        return iter(balanced_rows(self.classes, self.random()).tolist())


class LabelGroupedSampler(SeededSampler):
    """Sample each text once per epoch, in a random order of groups of texts with the same label.

    A batch of several groups then has pairs of texts with the same label and with different ones, even if there are
    many labels.

    Args:
        classes: Label of each text, int[N].
        group_size: Texts of a group; a label's last group may have fewer.
        seed: Seed of the order.
    """

    def __init__(self, classes: np.ndarray, group_size: int, seed: int) -> None:
        super().__init__(len(classes), seed)
        self.classes = np.asarray(classes)
        self.group_size = group_size

    def __iter__(self) -> Iterator[int]:
        random = self.random()
        order = random.permutation(len(self.classes))
        order = order[np.argsort(self.classes[order], kind="stable")]
        _, starts, labels = np.unique(self.classes[order], return_index=True, return_inverse=True)
        groups = labels * len(order) + (np.arange(len(order)) - starts[labels]) // self.group_size
        _, groups = np.unique(groups, return_inverse=True)
        places = random.permutation(int(groups.max(initial=-1)) + 1)
        return iter(order[np.argsort(places[groups], kind="stable")].tolist())


class LengthSortedSampler(Sampler[int]):
    """Sample the longest text first; ``order[i]`` is the i-th sampled row of the dataset."""

    def __init__(self, lengths: np.ndarray) -> None:
        self.order = np.argsort(-np.asarray(lengths), kind="stable")

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order.tolist())


def balanced_rows(classes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw the rows of one epoch, int64[N], in random order.

    As many rows are drawn as are labelled, with replacement and a probability inversely proportional to the frequency
    of their class, so that every class is expected equally often. A row without a class (``IGNORED_LABEL``), which only
    a teacher labels, occurs exactly once, so that a transfer set keeps its share and is used as a whole.
    """
    labelled, others = np.flatnonzero(classes != IGNORED_LABEL), np.flatnonzero(classes == IGNORED_LABEL)
    _, numbers, counts = np.unique(classes[labelled], return_inverse=True, return_counts=True)
    if len(labelled):
        labelled = random.choice(labelled, size=len(labelled), p=1 / (len(counts) * counts[numbers]))
    return random.permutation(np.concatenate([labelled, others]))


def dataset_labels(dataset: Any, columns: tuple[str, ...]) -> Rows | None:
    """Return the labels of a sized dataset, [N, ...]: ``dataset.labels``, else the first of ``columns`` that it has.

    None if it has neither.
    """
    labels = getattr(dataset, "labels", None)
    if labels is not None:
        return labels if isinstance(labels, Ragged) else np.asarray(labels)
    own_columns = getattr(dataset, "column_names", None)
    if isinstance(own_columns, list):
        column = next((name for name in columns if name in own_columns), None)
        values = None if column is None else list(dataset[column])
    else:
        rows = [dataset[index] for index in range(len(dataset))]
        column = next((name for name in columns if rows and rows[0].get(name) is not None), None)
        values = None if column is None else [row[column] for row in rows]
    return None if values is None else np.asarray(values)


def dataset_lengths(dataset: Any, column: str = "length") -> np.ndarray:
    """Return the tokens per row, int64[N]: ``dataset.lengths``, else ``column``, else the count of ``input_ids``."""
    lengths = getattr(dataset, "lengths", None)
    if lengths is not None:
        return np.asarray(lengths, dtype=np.int64)
    columns = getattr(dataset, "column_names", None)
    if isinstance(columns, list) and hasattr(dataset, "select_columns"):
        if column in columns:
            return np.asarray(dataset.with_format("numpy")[column][:], dtype=np.int64)
        if "input_ids" in columns:
            import pyarrow.compute as pc

            table = dataset.select_columns(["input_ids"]).with_format("arrow")[:]
            counted: Any = pc.call_function("list_value_length", [table.column("input_ids")])
            return counted.to_numpy().astype(np.int64)
    return np.asarray([len(dataset[index]["input_ids"]) for index in range(len(dataset))], dtype=np.int64)


def innermost_sampler(dataloader: Any) -> Any:
    """Return the sampler of a loader, inside the shards that accelerate wraps around it; None if it has none."""
    batches = getattr(dataloader, "batch_sampler", None)
    while hasattr(batches, "batch_sampler"):  # accelerate's shard around the real one
        batches = getattr(batches, "batch_sampler", None)
    return getattr(batches, "sampler", None)


def in_dataset_order(values: Any, order: np.ndarray) -> Any:
    """Bring arrays of N rows, computed in ``order`` int[N], back to the order of the dataset.

    ``values`` is an array or a tuple of arrays; anything without N rows is returned unchanged.
    """
    if isinstance(values, tuple):
        return tuple(in_dataset_order(value, order) for value in values)
    if not isinstance(values, np.ndarray) or len(values) != len(order):
        return values
    restored = np.empty_like(values)
    restored[order] = values
    return restored
