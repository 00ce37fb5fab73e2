"""Collate rows of token ids, labels and teacher logits into one padded batch of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from .tokenized import IGNORED_LABEL

LABEL_NAMES = ("labels", "label", "label_ids")
"""Columns that may hold the labels; the first that a dataset has is read."""


@dataclass(frozen=True)
class DistillationCollator:
    """Collate rows, padding to the batch's longest row (or the next multiple); unknown columns are dropped.

    Called with rows (dicts with ``input_ids[L]`` and, optionally, ``attention_mask[L]``,
    ``token_type_ids[L]``, a label, ``teacher_logits[C]``) it returns ``input_ids[B, L]``,
    ``attention_mask[B, L]``, ``token_type_ids[B, L]`` where given, ``labels[B]`` (int64, or float32
    for fractions; a label of several numbers adds its shape) and ``teacher_logits[B, C]`` (float32).
    Values for each token are padded as well: integer labels, one per token in every row, with -100,
    and ``teacher_logits[L, C]`` with 0.

    Attributes:
        pad_token_id: Token id for padding.
        pad_to_multiple_of: Pad to a multiple of this number of tokens.
        of_tokens: Whether integer labels may be those of tokens. Set it to False if a text has as many labels of its
            own as some texts have tokens.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None
    of_tokens: bool = True

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Collate rows into a batch; raise ``InputError`` if a row has no ``input_ids``."""
        first = rows[0]
        if "input_ids" not in first:
            raise InputError(
                f"a training row has the columns {sorted(first)} and no input_ids; tokenize the dataset first"
            )
        lengths = [len(row["input_ids"]) for row in rows]
        width = max(lengths)
        if self.pad_to_multiple_of:
            width = -(-width // self.pad_to_multiple_of) * self.pad_to_multiple_of
        batch = {"input_ids": _padded(rows, "input_ids", lengths, width, self.pad_token_id)}
        if "attention_mask" in first:
            batch["attention_mask"] = _padded(rows, "attention_mask", lengths, width, 0)
        else:
            kept = np.arange(width)[None, :] < np.asarray(lengths)[:, None]
            batch["attention_mask"] = torch.from_numpy(kept.astype(np.int64))
        if "token_type_ids" in first:
            batch["token_type_ids"] = _padded(rows, "token_type_ids", lengths, width, 0)
        label = next((name for name in LABEL_NAMES if first.get(name) is not None), None)
        if label is not None:
            labels = [np.asarray(row[label]) for row in rows]
            of_tokens = self.of_tokens and all(map(_is_of_tokens, labels, lengths))
            padded = _pad_tokens(labels, width, np.int64(IGNORED_LABEL)) if of_tokens else _stacked(labels)
            batch["labels"] = torch.from_numpy(padded)
        if first.get("teacher_logits") is not None:
            found = [np.asarray(row["teacher_logits"], dtype=np.float32) for row in rows]
            stacked = np.stack(found) if found[0].ndim == 1 else _pad_tokens(found, width, np.float32(0))
            batch["teacher_logits"] = torch.from_numpy(stacked)
        return batch


def _is_of_tokens(label: np.ndarray, num_tokens: int) -> bool:
    return label.dtype.kind in "iu" and label.shape == (num_tokens,)


def _stacked(labels: list[np.ndarray]) -> np.ndarray:
    """Stack a label or a row of numbers for each text."""
    stacked = np.stack(labels)
    return stacked.astype(np.float32 if stacked.dtype.kind == "f" else np.int64)


def _pad_tokens(rows: list[np.ndarray], width: int, fill: np.generic) -> np.ndarray:
    """Pad rows [L, ...] with ``fill`` to [B, width, ...], in its type."""
    padded = np.full((len(rows), width, *rows[0].shape[1:]), fill)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded


def _padded(
    rows: Sequence[Mapping[str, Any]], name: str, lengths: list[int], width: int, fill: int
) -> Tensor:
    padded = np.full((len(rows), width), fill, dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : lengths[index]] = row[name]
    return torch.from_numpy(padded)
