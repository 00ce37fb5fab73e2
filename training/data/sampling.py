"""Samplers that group texts by length, so that batches have little padding.

transformers' own grouped sampler draws from the global generator, so a run resumed inside an epoch has a
different order from the uninterrupted one; it reads every row of the dataset to get the lengths; and it
leaves the rows of ``predict`` in sorted order. These samplers avoid all three.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

_GROUPS_PER_WINDOW = 50


class LengthGroupedSampler(Sampler[int]):
    """Sample in a random order in which every ``group_size`` consecutive texts have similar lengths.

    Texts are shuffled, cut into windows of 50 groups, sorted by length inside a window, cut into groups, and
    the groups are shuffled; the longest comes first, so that memory runs out at once or never. The order
    depends only on ``seed`` and the epoch.
    """

    def __init__(self, lengths: np.ndarray, group_size: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.group_size = group_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the order (called by accelerate's data loader)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(len(self.lengths))
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


class LengthSortedSampler(Sampler[int]):
    """Sample the longest text first; ``order[i]`` is the i-th sampled row of the dataset."""

    def __init__(self, lengths: np.ndarray) -> None:
        self.order = np.argsort(-np.asarray(lengths), kind="stable")

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order.tolist())


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
