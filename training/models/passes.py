"""The limit on the tokens of a forward pass, given or derived from free memory, and batches split into passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..machine import free_memory, num_usable_cores
from .attention_mask import PADDED

_SHARE_OF_FREE = 0.5  # the rest is for fragmentation, the caches of libraries and other processes
_BYTES_PER_NUMBER = 4  # in 32 bits; fewer in mixed precision, whose copies of the weights make up for it
_BYTES_PER_TRAINED = 12  # of a trained parameter: its gradient and Adam's two moments
MOST_TOKENS = 2**19
"""Tokens of a pass beyond which it gets no faster."""
_MOST_ON_CPU = 16_384  # without gradients
_OF_TOKENS = ("input_ids", "attention_mask", "token_type_ids")
_DROPOUTS = ("attention_probs_dropout_prob", "attention_dropout")

_given: ContextVar[int | None] = ContextVar("num_tokens", default=None)


@contextmanager
def tokens_of_passes(num_tokens: int | None) -> Iterator[None]:
    """Bound the passes of every model inside the block; None: by free memory."""
    token = _given.set(num_tokens)
    try:
        yield
    finally:
        _given.reset(token)


@dataclass(frozen=True)
class PassShape:
    """Sizes that determine how much memory the tokens of a forward pass need.

    Attributes:
        width: Hidden size H; of a model without layers, the columns that it keeps for a token.
        inner: Feed-forward rows I.
        num_states: States of a token in a layer, each of H numbers.
        num_maps: Matrices of L x L numbers of a text in a layer: attention scores and what is computed from them in
            each head, or the mask alone if the attention kernel keeps no scores.
        num_held: Layers whose states are held at a time: all of them for a backward pass, otherwise one.
        num_masks: Matrices of L x L numbers that exist while the model's masks are built, more of them for a sliding
            window.
    """

    width: int
    inner: int
    num_states: int
    num_maps: int
    num_held: int
    num_masks: int

    @classmethod
    def of(
        cls, config: Any, *, is_trained: bool, fuses_dropout: bool = False, attention: str | None = None
    ) -> PassShape:
        """Return the sizes of a model.

        Args:
            config: transformers configuration of the model.
            is_trained: Whether gradients are computed.
            fuses_dropout: Whether fused attention keeps no scores even in training: on a GPU, or without dropout.
            attention: Implementation of attention; None: that of the configuration, which a built model has.
        """
        columns = getattr(config, "columns_of_token", 0)
        if columns:  # of a model without layers
            num_states = 3 if is_trained else 2
            return cls(columns, inner=0, num_states=num_states, num_maps=0, num_held=1, num_masks=0)
        width, num_heads = config.hidden_size, getattr(config, "num_attention_heads", 0)
        inner = getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", None) or 4 * width
        has_dropout = is_trained and any(getattr(config, name, 0) for name in _DROPOUTS)
        used = attention or getattr(config, "_attn_implementation", None)
        is_fused = used == "sdpa" and (fuses_dropout or not has_dropout)
        of_head = 4 if is_trained else 2
        return cls(
            width=width,
            inner=inner,
            num_states=20 if is_trained else 8,
            num_maps=1 if is_fused and num_heads else of_head * num_heads,
            num_held=getattr(config, "num_hidden_layers", 1) if is_trained else 1,
            num_masks=(5 if getattr(config, "local_attention", None) else 2) if num_heads else 0,
        )

    def token_bytes(self, length: int) -> int:
        """Estimate the bytes of a token: 4 · (layers · (states · H + 2 · I + maps · L) + masks · L).

        L is ``length``. The terms are those of Korthikanti et al., "Reducing Activation Recomputation in Large
        Transformer Models", 2022, equation 1; the numbers are upper bounds of what BERT, ModernBERT and models without
        layers were measured to take in 32 bits on a CPU.
        """
        of_layer = self.num_states * self.width + 2 * self.inner + self.num_maps * length
        return _BYTES_PER_NUMBER * (self.num_held * of_layer + self.num_masks * length)

    def text_bytes(self, length: int) -> int:
        """Estimate the bytes of one text of ``length`` tokens."""
        return length * self.token_bytes(length)


@dataclass(frozen=True)
class PassLimit:
    """Bound on the tokens of a forward pass, padding included. One text is always allowed.

    Attributes:
        shape: Sizes of the model; None if they are not known, so that its passes have up to ``most`` tokens.
        num_tokens: The bound, if it is given.
        num_bytes: Otherwise, bytes that a pass may take.
        most: Most tokens in that case.
    """

    shape: PassShape | None
    num_tokens: int | None = None
    num_bytes: int = 0
    most: int = MOST_TOKENS

    def tokens(self, length: int) -> int:
        """Return the most tokens of a pass whose longest text has ``length`` tokens."""
        allowed = self.num_tokens
        if allowed is None:
            by_memory = self.most if self.shape is None else self.num_bytes // self.shape.token_bytes(length)
            allowed = min(self.most, by_memory)
        return max(length, allowed)

    def rows(self, length: int) -> int:
        """Return the most texts of such a pass."""
        return self.tokens(length) // length


def training_limit(model: Any, num_tokens: int | None = None) -> PassLimit:
    """Return the bound on a model's passes in training, before its optimizer exists.

    By default it follows from the free memory, rounded down to a power of two, so that small changes of it alter
    neither the bound nor the last bits of sums.

    Args:
        model: The model, on its device.
        num_tokens: The bound, if it is given.
    """
    given, shape = num_tokens or _given.get(), _shape_of(model, is_trained=True)
    if given is not None or shape is None:
        return PassLimit(shape, given)
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    usable = bytes_of_passes(model.device) - _BYTES_PER_TRAINED * trained
    return PassLimit(shape, num_bytes=1 << (usable.bit_length() - 1) if usable > 0 else 0)


def inference_limit(model: Any, num_tokens: int | None = None, *, most: int | None = None) -> PassLimit:
    """Return the bound on a model's passes without gradients.

    Args:
        model: The model, on its device.
        num_tokens: The bound, if it is given.
        most: Most tokens otherwise; None: 16,384 on a CPU, 524,288 on a GPU.
    """
    given, shape = num_tokens or _given.get(), _shape_of(model, is_trained=False)
    if given is not None or shape is None:
        return PassLimit(shape, given)
    if most is None:
        most = MOST_TOKENS if model.device.type == "cuda" else _MOST_ON_CPU
    return PassLimit(shape, num_bytes=bytes_of_passes(model.device), most=most)


def _shape_of(model: Any, *, is_trained: bool) -> PassShape | None:
    config = getattr(model, "config", None)
    if getattr(config, "hidden_size", None) is None:  # of a class that is not transformers'
        return None
    on_gpu = model.device.type == "cuda"
    # The configuration's dropout may have been switched off for the training.
    drops = any(each.p > 0 for each in model.modules() if isinstance(each, nn.Dropout))
    return PassShape.of(config, is_trained=is_trained, fuses_dropout=on_gpu or not drops)


def bytes_of_passes(device: torch.device, num_threads: int | None = None) -> int:
    """Return the bytes that passes on a device may take: half of free memory, on a CPU times this process's share.

    Args:
        device: The device.
        num_threads: Threads of this process on a CPU, default: those that PyTorch uses; divided by the number of cores,
            they are its share.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        own_share = torch.cuda.get_per_process_memory_fraction(device)
        return int(_SHARE_OF_FREE * min(free, own_share * total))
    threads = torch.get_num_threads() if num_threads is None else num_threads
    return int(_SHARE_OF_FREE * free_memory() * min(1.0, threads / num_usable_cores()))


def length_batches(
    lengths: np.ndarray,
    batch_size: int,
    num_tokens: int | Callable[[int], int] = _MOST_ON_CPU,
    start: int = 0,
) -> Iterator[np.ndarray]:
    """Yield batches of indices into ``lengths``, longest first.

    Args:
        lengths: Tokens of each text, int[N].
        batch_size: Most texts of a batch.
        num_tokens: Most tokens of a batch of several texts, padding included; or a function that returns them for the
            length of its longest text.
        start: How many of the longest texts to skip.
    """
    order = np.argsort(-lengths, kind="stable")
    while start < len(order):
        longest = int(lengths[order[start]])
        allowed = num_tokens if isinstance(num_tokens, int) else num_tokens(longest)
        size = max(1, min(batch_size, allowed // longest))
        yield order[start : start + size]
        start += size


@dataclass(frozen=True)
class Part:
    """A part of a batch that is one pass.

    Attributes:
        batch: Its tensors, and whether any of its texts is padded where the batch says so.
        rows: Rows of the batch, int[b]; None: the whole batch, as it is.
    """

    batch: dict[str, Any]
    rows: Tensor | None = None


def parts_of(
    batch: dict[str, Any], limit: PassLimit, *, multiple: int = 1, of_tokens: bool = False
) -> list[Part]:
    """Split a batch into passes of texts of similar lengths, the longest first, with as little padding as possible.

    A batch within the limit is returned as it is, without reading its tensors, which would wait for a GPU.

    Args:
        batch: ``input_ids[B, L]`` and other tensors of B rows.
        limit: The bound.
        multiple: Passes are padded to a multiple of this many tokens.
        of_tokens: Whether labels and logits, too, are those of tokens, [B, L, ...].
    """
    ids: Tensor | None = batch.get("input_ids")
    if ids is None or ids.ndim != 2 or len(ids) <= limit.rows(max(1, ids.shape[1])):
        return [Part(batch)]
    width = ids.shape[1]
    lengths = np.maximum(1, _lengths(batch, width))
    padded = np.minimum(width, -(-lengths // multiple) * multiple)
    found = []
    for rows in length_batches(padded, len(ids), limit.tokens):
        kept = int(padded[rows[0]])
        own = torch.from_numpy(rows).to(ids.device)
        part = {
            name: _selected(name, each, own, kept, ids, of_tokens=of_tokens) for name, each in batch.items()
        }
        if PADDED in batch:
            part[PADDED] = bool((lengths[rows] < kept).any())
        found.append(Part(part, own))
    return found


def _lengths(batch: Mapping[str, Any], width: int) -> np.ndarray:
    """Return the place after the last token of each row, int64[B]."""
    mask: Tensor | None = batch.get("attention_mask")
    if mask is None:
        return np.full(len(batch["input_ids"]), width)
    places = torch.arange(1, width + 1, device=mask.device)
    return (places * (mask != 0)).amax(dim=1).cpu().numpy()


def _selected(name: str, value: Any, rows: Tensor, width: int, ids: Tensor, *, of_tokens: bool) -> Any:
    """Return the rows of a batch's tensor, cut to ``width`` tokens where it has a column for each token."""
    if not isinstance(value, Tensor) or not value.ndim or len(value) != len(ids):
        return value
    has_columns = value.ndim > 1 and value.shape[1] == ids.shape[1] and (of_tokens or name in _OF_TOKENS)
    taken = value.index_select(0, rows.to(value.device))
    return taken[:, :width].contiguous() if has_columns else taken


def run_in_parts(
    parts: list[Part], run: Callable[[dict[str, Any]], Tensor], width: int, padding: float = 0.0
) -> Tensor:
    """Return the logits [B, C] or [B, L, C] of a batch in its order, from those of its parts.

    Args:
        parts: The parts.
        run: Returns the logits of a part.
        width: L.
        padding: Logits of the padding that a part lacks.
    """
    if parts[0].rows is None:
        return run(parts[0].batch)
    joined: Tensor | None = None
    num_rows = sum(len(each.rows) for each in parts if each.rows is not None)
    for part in parts:
        own = run(part.batch)
        of_tokens = own.ndim > 2
        if joined is None:
            shape = (num_rows, width, *own.shape[2:]) if of_tokens else (num_rows, *own.shape[1:])
            joined = own.new_full(shape, padding)
        assert part.rows is not None
        if of_tokens:
            joined[part.rows, : own.shape[1]] = own
        else:
            joined[part.rows] = own
    assert joined is not None
    return joined


def step_in_parts(
    parts: list[Part], step: Callable[[dict[str, Any]], Tensor], accelerator: Any, model: Any
) -> Tensor:
    """Accumulate the gradients of a batch's parts, and return the sum of their losses.

    Each loss is a sum over the part's examples, divided by the number of examples in the whole optimizer step. Several
    processes exchange gradients only at their last part, since they may have different numbers of parts.

    Args:
        parts: The parts.
        step: Computes the loss of a part and its gradients.
        accelerator: An ``accelerate.Accelerator``.
        model: The model with its wrappers.
    """
    total: Tensor | None = None
    for number, part in enumerate(parts, 1):
        with nullcontext() if number == len(parts) else accelerator.no_sync(model):
            loss = step(part.batch)
        total = loss if total is None else total + loss
    assert total is not None
    return total


def num_rows_of(inputs: Mapping[str, Any]) -> int:
    """Return the number of texts of a batch, B."""
    return len(inputs["input_ids"]) if "input_ids" in inputs else len(next(iter(inputs.values())))


def width_of(inputs: Mapping[str, Any]) -> int:
    """Return the tokens of a batch's rows, L; 0 for a batch without token ids."""
    return inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
