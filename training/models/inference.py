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
from .attention_mask import PADDED, with_known_padding
from .first_token import first_token_in_last_layer
from .passes import MOST_TOKENS, inference_limit, length_batches
from .runtime import evaluation_device, float32_products, intra_op_threads, without_mixed_precision
from .token_types import without_unread_types

DTYPES = ("float32", "tf32", "bfloat16")
_REPORT_EVERY_S = 1.0
_KEPT_BYTES = 256 * 2**20


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

    The model may be in the middle of a training, even in mixed precision; its mode is restored.

    Args:
        model: A classifier of texts or of tokens; it is moved to the device that is used.
        split: Texts tokenized with the model's tokenizer.
        pad_token_id: Token id for padding.
        num_threads: Intra-op threads.
        batch_size: Maximum number of texts per batch on a CPU; on a GPU its free memory decides. On both a batch of
            several texts has at most the tokens of ``inference_limit``.
        dtype: Type of the multiplications, one of ``DTYPES``.
        use_gpu: Whether a GPU may be used; None uses one if available.
        report: Called at most once a second; ``done`` and ``total`` count distinct texts.

    Raises:
        InputError: The device does not have the type.
        ModelError: Some logits are not finite.
    """
    first, rows_of = np.unique(split.example_ids, return_index=True, return_inverse=True)[1:]
    device = evaluation_device(use_gpu)
    network: Any = model
    network.to(device)
    table = LogitsTable(split.lengths[first])
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")
    place = np.empty(len(split), dtype=np.int64)
    place[first] = np.arange(len(first))
    num_done, reported = 0, time.monotonic()
    with (
        intra_op_threads(num_threads),
        float32_products(tf32=dtype == "tf32" or None, device=device, given=f"logits_precision is {dtype}"),
        torch.inference_mode(),
        autocast,
        first_token_in_last_layer(model),
    ):
        batches = _logits_of_rows(model, split, first, batch_size, pad_token_id)
        for rows, found in copied_late((rows, each) for rows, _, each in batches):
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
        """Set the logits [B, C] or [B, L, C] of the texts ``rows``, int[B]; those of padding are left out."""
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
    """Run a model on batches of a split, one at a time, without dropout and mixed precision.

    Gradients are recorded if the caller enables them. The model's mode is restored.

    Args:
        model: A classifier; its device is used.
        split: N texts tokenized with the model's tokenizer.
        batches: Rows of the split that form each batch.
        pad_token_id: Token id for padding.

    Yields:
        The rows int[B], their labels, and the logits [B, C], the latter two on the model's device.
    """
    collated = ((rows, _collated(split, rows, pad_token_id, model.device)) for rows in batches)
    yield from _logits_of(model, collated)


def _collated(
    split: TokenizedSplit, rows: np.ndarray, pad_token_id: int, device: torch.device
) -> dict[str, Any]:
    """Return the batch of some rows on a device, and whether any of its texts is padded."""
    dataset, lengths = TokenizedDataset(split), split.lengths[rows]
    batch = DistillationCollator(pad_token_id, of_tokens=isinstance(split.labels, Ragged))(
        [dataset[int(row)] for row in rows]
    )
    if device.type == "cuda":  # a copy from other memory would wait in spite of ``non_blocking``
        batch = {name: each.pin_memory() for name, each in batch.items()}
    moved = {name: each.to(device, non_blocking=True) for name, each in batch.items()}
    return {**moved, PADDED: bool((lengths < lengths.max()).any())}


def _logits_of(
    model: PreTrainedModel, batches: Iterable[tuple[np.ndarray, dict[str, Any]]]
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Run a model on collated batches of rows, as ``logits_of_batches`` does."""
    network: Any = model
    was_training = model.training
    network.eval()
    try:
        with without_mixed_precision(network):
            for rows, batch in batches:
                inputs = {name: each for name, each in batch.items() if name not in ("labels", PADDED)}
                inputs = with_known_padding(model, without_unread_types(network, inputs), batch[PADDED])
                yield rows, batch["labels"], network(**inputs).logits
    finally:
        network.train(was_training)


def copied_late(found: Iterable[tuple[np.ndarray, Tensor]]) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield logits in the host's memory; those of a GPU one batch late, so that the next one already runs meanwhile.

    Args:
        found: The rows int[B] and logits of each batch, which is run when it is requested.
    """
    waiting: list[tuple[np.ndarray, Tensor, Any]] = []
    for rows, logits in found:
        if logits.device.type != "cuda":
            yield rows, logits
            continue
        copy, copied = logits.float().to("cpu", non_blocking=True), torch.cuda.Event()
        copied.record()
        waiting.append((rows, copy, copied))
        if len(waiting) > 1:
            yield _arrived(*waiting.pop(0))
    for each in waiting:
        yield _arrived(*each)


def _arrived(rows: np.ndarray, logits: Tensor, copied: Any) -> tuple[np.ndarray, Tensor]:
    copied.synchronize()
    return rows, logits


class KeptBatches:
    """The batches of a split that is evaluated after every epoch, collated once and kept on the model's device.

    A split that would take more than 256 MiB there is collated again each time.

    Args:
        split: N texts tokenized with the model's tokenizer.
        batch_size: Texts of a batch, of similar lengths.
        pad_token_id: Token id for padding.
        num_tokens: Most tokens of a batch of several texts; None: as ``inference_limit`` of the first model.
    """

    def __init__(
        self, split: TokenizedSplit, batch_size: int, pad_token_id: int, num_tokens: int | None = None
    ) -> None:
        self._split, self._batch_size, self._pad_token_id = split, batch_size, pad_token_id
        self._num_tokens = num_tokens
        self._rows: list[np.ndarray] = []
        self._kept: list[tuple[np.ndarray, dict[str, Any]]] = []

    @torch.no_grad()
    def logits(self, model: PreTrainedModel) -> Rows:
        """Return a model's logits float32[N, C] or rows of [L, C], in the order of the split, computed in 32 bits.

        Its training may use TF32. They are copied from the device when all batches have been run, so that the host need
        not wait for each.
        """
        table = LogitsTable(self._split.lengths)
        with float32_products(tf32=False, device=model.device):
            found = ((rows, each) for rows, _, each in _logits_of(model, self._batches(model)))
            for rows, logits in list(found) if self._can_be_kept else copied_late(found):
                table.put(rows, logits)
        return table.logits

    def _batches(self, model: PreTrainedModel) -> Iterable[tuple[np.ndarray, dict[str, Any]]]:
        if self._kept:
            return self._kept
        self._rows = self._rows or self._rows_for(model)
        pad, device = self._pad_token_id, model.device
        collated = ((rows, _collated(self._split, rows, pad, device)) for rows in self._rows)
        if not self._can_be_kept:
            return collated
        self._kept = list(collated)
        return self._kept

    def _rows_for(self, model: PreTrainedModel) -> list[np.ndarray]:
        """Return the rows of each batch, the shortest texts first; a batch with too many tokens is split."""
        lengths, size = self._split.lengths, self._batch_size
        limit = inference_limit(model, self._num_tokens, most=MOST_TOKENS)
        order = np.argsort(lengths, kind="stable")
        found = []
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            num_rows = limit.rows(max(1, int(lengths[batch[-1]])))
            found += [batch[first : first + num_rows] for first in range(0, len(batch), num_rows)]
        return found

    @property
    def _can_be_kept(self) -> bool:
        lengths = self._split.lengths
        widths = [len(rows) * int(lengths[rows].max()) for rows in self._rows]
        return 16 * sum(widths) <= _KEPT_BYTES  # ids and mask, 8 bytes each


def _logits_of_rows(
    model: PreTrainedModel, split: TokenizedSplit, rows: np.ndarray, batch_size: int, pad_token_id: int
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Run a model on rows of a split as ``logits_of_batches`` does, in batches as large as memory allows.

    If a batch does not fit on a GPU nevertheless, the rest is run in batches of half as many tokens.
    """
    lengths, num_done = split.lengths[rows], 0
    longest = int(lengths.max(initial=1))
    num_tokens = batch_tokens(model, longest)
    if model.device.type == "cuda":
        batch_size = len(rows)
    while num_done < len(rows):
        batches = (rows[each] for each in length_batches(lengths, batch_size, num_tokens, num_done))
        try:
            for each in logits_of_batches(model, split, batches, pad_token_id=pad_token_id):
                num_done += len(each[0])
                yield each
        except torch.cuda.OutOfMemoryError:
            if num_tokens < 2 * longest:
                raise
            num_tokens //= 2
            torch.cuda.empty_cache()


def batch_tokens(model: PreTrainedModel, length: int) -> int:
    """Return the most tokens of a batch of several texts in ``compute_logits``, the longest of ``length`` tokens."""
    return inference_limit(model).tokens(length)
