"""Batched inference: a model's logits over a split, computing each distinct text once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...errors import ModelError
from ...progress import Progress, ReportProgress
from ..data.collator import DistillationCollator
from ..data.tokenized import TokenizedDataset, TokenizedSplit
from ..ragged import Ragged, Rows, flat, offsets_of
from .first_token import first_token_in_last_layer
from .runtime import evaluation_device, intra_op_threads, without_mixed_precision
from .token_types import without_unread_types

DTYPES = ("float32", "bfloat16")
_REPORT_EVERY_S = 1.0
_MAX_TOKENS = 16_384  # in one batch, padding included: bounds memory when texts are long


def compute_logits(
    model: PreTrainedModel,
    split: TokenizedSplit,
    *,
    pad_token_id: int,
    num_threads: int,
    batch_size: int = 256,
    dtype: str = "float32",
    use_gpu: bool | None = None,
    report: ReportProgress | None = None,
) -> Rows:
    """Compute a model's logits float32[N, C] over a split, or rows of [L, C]; each distinct text is run once.

    The model may be in training, also in mixed precision; its mode is restored.

    Args:
        model: A classifier of texts or of tokens; it is moved to the device that is used.
        split: Texts tokenized with the model's tokenizer.
        pad_token_id: Token id for padding.
        num_threads: Intra-op threads.
        batch_size: Maximum number of texts per batch.
        dtype: Type of the multiplications, one of ``DTYPES``.
        use_gpu: Whether a GPU may be used; None uses one if available.
        report: Called at most once a second; ``done`` and ``total`` count distinct texts.

    Raises:
        ModelError: Some logits are not finite.
    """
    first, rows_of = np.unique(split.example_ids, return_index=True, return_inverse=True)[1:]
    device = evaluation_device(use_gpu)
    network: Any = model
    network.to(device)
    batches = (first[batch] for batch in length_batches(split.lengths[first], batch_size))
    table = LogitsTable(split.lengths[first])
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")
    place = np.empty(len(split), dtype=np.int64)
    place[first] = np.arange(len(first))
    num_done, reported = 0, time.monotonic()
    with (
        intra_op_threads(num_threads),
        torch.inference_mode(),
        autocast,
        first_token_in_last_layer(model),
    ):
        for rows, _, found in logits_of_batches(model, split, batches, pad_token_id=pad_token_id):
            table.put(place[rows], found)
            num_done += len(rows)
            if report is not None and time.monotonic() - reported > _REPORT_EVERY_S:
                reported = time.monotonic()
                message = f"{num_done:,} of {len(first):,} texts"
                report(Progress(message, {"done": num_done, "total": len(first)}))
    logits = table.logits
    if not np.isfinite(flat(logits)).all():
        raise ModelError("the model's logits are not finite; train it with a lower learning rate")
    return logits[rows_of]


class LogitsTable:
    """The logits of some texts, which are filled batch by batch: one vector for each text, or for each of its tokens.

    Args:
        lengths: Number of tokens of each text, int64[N].
    """

    def __init__(self, lengths: np.ndarray) -> None:
        self._lengths = lengths
        self._logits: Rows | None = None

    def put(self, rows: np.ndarray, found: Tensor) -> None:
        """Set the logits [B, C] or [B, L, C] of the texts ``rows``, int[B]; padding is left out."""
        values = found.float().cpu().numpy()
        if self._logits is None:
            offsets = offsets_of(self._lengths)
            num = len(self._lengths) if values.ndim == 2 else offsets[-1]
            empty = np.empty((num, values.shape[-1]), dtype=np.float32)
            self._logits = empty if values.ndim == 2 else Ragged(empty, offsets)
        if not isinstance(self._logits, Ragged):
            self._logits[rows] = values
            return
        for row, own in zip(rows, values, strict=True):
            self._logits[row][:] = own[: self._lengths[row]]

    @property
    def logits(self) -> Rows:
        """The logits of all texts, each of which has been put."""
        assert self._logits is not None, "there are texts"
        return self._logits


def logits_of_batches(
    model: PreTrainedModel, split: TokenizedSplit, batches: Iterable[np.ndarray], *, pad_token_id: int
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Run a model on batches of a split, without dropout and mixed precision, one batch at a time.

    Gradients are recorded if the caller enables them. The model's mode is restored.

    Args:
        model: A classifier; its device is used.
        split: N texts tokenized with the model's tokenizer.
        batches: Rows of the split that form each batch.
        pad_token_id: Token id for padding.

    Yields:
        The rows int[B], their labels, and the logits [B, C], the latter two on the model's device.
    """
    dataset, collate = TokenizedDataset(split), DistillationCollator(pad_token_id)
    network: Any = model
    was_training = model.training
    network.eval()
    try:
        with without_mixed_precision(network):
            for rows in batches:
                batch = collate([dataset[int(row)] for row in rows])
                inputs = {name: each.to(model.device) for name, each in batch.items()}
                labels = inputs.pop("labels")
                inputs = without_unread_types(network, inputs)
                yield rows, labels, network(**inputs).logits
    finally:
        network.train(was_training)


def length_batches(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Yield batches of indices into ``lengths``, longest first, of at most ``batch_size`` texts and ``_MAX_TOKENS``."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, min(batch_size, _MAX_TOKENS // int(lengths[order[start]])))
        yield order[start : start + size]
        start += size
