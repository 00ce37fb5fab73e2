"""Training texts that are kept on the device, where batches are gathered without a copy from the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from ..data.collator import DistillationCollator
from ..data.tokenized import EXAMPLES, IGNORED_LABEL, TokenizedDataset, TokenizedSplit
from ..models.attention_mask import PADDED
from ..ragged import Ragged, Rows, flat, offsets_of

_SHARE_OF_FREE = 0.25  # of a GPU's memory: the rest is for the model, its gradients and activations
_NUM_COMPARED = 16  # texts
_KNOWN = {"input_ids", "offsets", "labels", "example_ids", "token_types", "questions"}


class DeviceTexts:
    """N tokenized texts on a device, with labels and, where there are any, the teacher's logits.

    Args:
        parts: The texts, in the order of the training set.
        device: Where they are kept.
        collator: Determines the padding id, and the multiple to which batches are padded.
    """

    def __init__(
        self, parts: Sequence[TokenizedDataset], device: torch.device, collator: DistillationCollator
    ) -> None:
        splits = [each.split for each in parts]
        lengths = np.concatenate([each.lengths for each in splits])
        self.lengths: np.ndarray = lengths
        """Tokens of each text, int64[N], on the host."""
        self._device, self._collator = device, collator
        ids = [_tokens_of(each.input_ids, each) for each in splits]
        self._ids = _concatenated(ids, device, np.int32)  # int32[total]
        self._starts = torch.from_numpy(np.cumsum(lengths) - lengths).to(device)  # int64[N]
        self._lengths = torch.from_numpy(lengths.copy()).to(device)
        types = [_tokens_of(each.token_types, each) for each in splits if each.token_types is not None]
        self._types = _concatenated(types, device, np.int8) if types else None  # int8[total]
        labels = [_values(each.labels) for each in splits]
        self._labels = _concatenated(labels, device, np.float32 if labels[0].dtype.kind == "f" else np.int64)
        logits = [_values(each.teacher_logits) for each in parts if each.teacher_logits is not None]
        self._logits = _concatenated(logits, device, np.float32) if logits else None  # [N, C] or [total, C]
        of_tokens = isinstance(splits[0].labels, Ragged)
        self._words = _Words(np.concatenate(labels), lengths, device) if of_tokens else None
        self._columns = torch.arange(self._width(int(lengths.max())), device=device)

    def __len__(self) -> int:
        return len(self.lengths)

    def _width(self, longest: int) -> int:
        multiple = self._collator.pad_to_multiple_of or 1
        return -(-longest // multiple) * multiple

    def batch(self, rows: Tensor, numbers: np.ndarray) -> dict[str, Any]:
        """Gather a batch: the tensors that the collator returns, whether any text is padded, and where its words are.

        Args:
            rows: Numbers of the texts, int64[B], on the device.
            numbers: The same on the host, so that all shapes are known without waiting for the device.
        """
        lengths = self.lengths[numbers]
        width = self._width(int(lengths.max()))
        columns = self._columns[:width]
        kept = columns < self._lengths[rows][:, None]  # [B, L]
        places = (self._starts[rows][:, None] + columns).clamp_(max=len(self._ids) - 1)
        ids = self._ids[places].long()
        found: dict[str, Any] = {
            "input_ids": torch.where(kept, ids, self._collator.pad_token_id),
            "attention_mask": kept.long(),
            "labels": self._labels[rows if self._words is None else places],
        }
        if self._types is not None:
            found["token_type_ids"] = torch.where(kept, self._types[places].long(), 0)
        if self._logits is not None:
            found["teacher_logits"] = self._logits[rows if self._words is None else places]
        if self._words is not None:
            found["labels"] = torch.where(kept, found["labels"], IGNORED_LABEL)
            if self._logits is not None:
                found["teacher_logits"] = torch.where(kept[..., None], found["teacher_logits"], 0)
            found[EXAMPLES] = self._words.places(rows, numbers, width)
        found[PADDED] = bool((lengths < width).any())
        return found

    def agrees_with_collator(self, dataset: Any) -> bool:
        """Return whether some texts, the longest and the shortest among them, are collated to the same batch."""
        spread = np.linspace(0, len(self) - 1, _NUM_COMPARED).astype(np.int64)
        rows = np.unique([*spread, *np.argsort(self.lengths, kind="stable")[[0, -1]]])
        expected = self._collator([dataset[int(row)] for row in rows])
        found = self.batch(torch.from_numpy(rows).to(self._device), rows)
        found.pop(PADDED)
        found.pop(EXAMPLES, None)
        return expected.keys() == found.keys() and all(
            _are_same(value, found[name].cpu()) for name, value in expected.items()
        )

    def loader(self, sampler: Sampler[int], batch_size: int, *, drop_last: bool) -> DataLoader[Any]:
        """Return a loader of batches in the order of a sampler, for ``accelerator.prepare``."""
        order = _EpochOrder(self, sampler)
        return DataLoader(
            order,  # pyright: ignore[reportArgumentType]
            batch_size=batch_size,
            sampler=order,
            collate_fn=order.collate,
            drop_last=drop_last,
        )


class _Words:
    """The tokens with a label of N texts, on a device.

    Args:
        labels: Labels of all tokens, int[total]; ``IGNORED_LABEL`` for a token without a label.
        lengths: Tokens of each text, int64[N].
        device: Where their places are kept.
    """

    def __init__(self, labels: np.ndarray, lengths: np.ndarray, device: torch.device) -> None:
        tokens = np.flatnonzero(labels != IGNORED_LABEL)
        starts = offsets_of(lengths)
        text_of = np.searchsorted(starts, tokens, "right") - 1
        self._counts = np.bincount(text_of, minlength=len(lengths))  # int64[N], on the host
        self._num = torch.from_numpy(self._counts).to(device)
        self._first = torch.from_numpy(offsets_of(self._counts)[:-1]).to(device)  # int64[N]
        self._at = torch.from_numpy(tokens - starts[text_of]).to(device)  # int64[W], the place in its text

    def places(self, rows: Tensor, numbers: np.ndarray, width: int) -> Tensor:
        """Return the ascending indices of a batch's words in its B · width tokens, without waiting for the device."""
        num, total = self._num[rows], int(self._counts[numbers].sum())
        text_of = torch.repeat_interleave(torch.arange(len(rows), device=num.device), num, output_size=total)
        within = torch.arange(total, device=num.device) - (num.cumsum(0) - num)[text_of]
        return text_of * width + self._at[self._first[rows][text_of] + within]


class _EpochOrder(Sampler[int]):
    """The order of an epoch, copied to the device once; a batch is a slice of it.

    As a dataset, its items are the places in the order, 0 to N - 1.
    """

    def __init__(self, texts: DeviceTexts, sampler: Sampler[int]) -> None:
        self._texts = texts
        self._sampler: Any = sampler
        self._host = np.zeros(0, dtype=np.int64)
        self._rows = torch.zeros(0, dtype=torch.int64)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the sampler, which may determine the order."""
        if hasattr(self._sampler, "set_epoch"):
            self._sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, place: int) -> int:
        return place

    def __getitems__(self, places: list[int]) -> list[int]:
        return places

    def __iter__(self) -> Iterator[int]:
        self._host = np.fromiter(self._sampler, dtype=np.int64)
        self._rows = torch.from_numpy(self._host).to(self._texts._device)
        return iter(range(len(self._host)))

    def collate(self, places: list[int]) -> dict[str, Any]:
        """Gather the batch at consecutive places of the order."""
        start, end = places[0], places[-1] + 1
        assert end - start == len(places), "one process trains, and takes the order as it is"
        return self._texts.batch(self._rows[start:end], self._host[start:end])


def device_texts(dataset: Any, collator: Any, device: torch.device) -> DeviceTexts | None:
    """Return the texts of a training set on a device, or None if they have to be collated on the host.

    They have to if the dataset or the collator is of another class, the dataset has columns that are not known here,
    the collator returns different batches, or the texts would take more than a quarter of a GPU's free memory.

    Args:
        dataset: A ``TokenizedDataset``, or several that are joined.
        collator: The collator that would be used.
        device: Device of the training.
    """
    if not can_be_kept(dataset, collator):
        return None
    parts = _parts(dataset)
    if device.type == "cuda" and _num_bytes(parts) > _SHARE_OF_FREE * torch.cuda.mem_get_info(device)[0]:
        return None
    found = DeviceTexts(parts, device, collator)
    return found if found.agrees_with_collator(dataset) else None


def _parts(dataset: Any) -> list[Any]:
    return list(getattr(dataset, "datasets", [dataset]))


def can_be_kept(dataset: Any, collator: Any) -> bool:
    """Return whether a training set consists of tokenized splits of the same form, and its collator is known here.

    No split has a column that is not known here.
    """
    parts = _parts(dataset)
    if type(collator) is not DistillationCollator or not all(
        type(each) is TokenizedDataset for each in parts
    ):
        return False
    splits = [each.split for each in parts]
    others = {each.name for each in fields(TokenizedSplit)} - _KNOWN
    return (
        sum(map(len, splits)) > 0
        and all(getattr(split, name) is None for split in splits for name in others)
        and all(map(_has_numbers, parts))
        and len({_form(each) for each in parts}) == 1
    )


def _has_numbers(part: TokenizedDataset) -> bool:
    """Return whether labels are numbers, one for each text or one for each token, and the teacher's logits likewise."""
    labels, logits = part.split.labels, part.teacher_logits
    if isinstance(labels, Ragged):
        same = np.array_equal(labels.lengths, part.split.lengths)
        return same and labels.values.dtype.kind in "iu" and (logits is None or isinstance(logits, Ragged))
    return labels.dtype.kind in "iuf" and not isinstance(logits, Ragged)


def _form(part: TokenizedDataset) -> tuple[Any, ...]:
    """Return what all parts of a training set must have in common."""
    labels = part.split.labels
    values = flat(labels)
    shape = (isinstance(labels, Ragged), values.dtype, values.shape[1:])
    return *shape, part.teacher_logits is None, part.split.token_types is None


def _num_bytes(parts: Sequence[TokenizedDataset]) -> int:
    logits = sum(flat(each.teacher_logits).size for each in parts if each.teacher_logits is not None)
    labels = sum(16 * len(each.labels.values) for each in parts if isinstance(each.labels, Ragged))
    return sum(5 * int(each.lengths.sum()) + 32 * len(each) for each in parts) + labels + 4 * logits


def _tokens_of(values: np.ndarray, split: TokenizedSplit) -> np.ndarray:
    """Return the values of a split's own tokens from a flat array, which the split may share with others."""
    return values[split.offsets[0] : split.offsets[-1]]


def _values(rows: Rows) -> np.ndarray:
    """Return an array, or the values of only these rows, which may share their array with others."""
    return rows.values[rows.offsets[0] : rows.offsets[-1]] if isinstance(rows, Ragged) else rows


def _are_same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same type, shape and values; NaN, a missing label, equals NaN."""
    same = one.dtype == other.dtype and one.shape == other.shape
    return same and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _concatenated(parts: Sequence[np.ndarray], device: torch.device, dtype: Any) -> Tensor:
    """Return the concatenation of arrays on a device; they may be read-only, and are copied one at a time."""
    return torch.cat([torch.from_numpy(np.array(each, dtype=dtype)).to(device) for each in parts])
