"""Select the most important attention heads and feed-forward rows of each layer, which a student keeps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ...errors import ModelError
from ...texts import TextOrPair
from ..data.tokenized import TokenizedSplit
from ..models.families import Capability, family_of
from ..models.inference import logits_of_batches
from ..models.passes import length_batches, training_limit
from ..models.structured_pruning import head_size, keep_heads, keep_rows, num_heads, num_rows, readers
from ..tasks import SINGLE_LABEL, Task
from .size_config import WidthConfig

NUM_TEXTS = 1000
_BATCH_SIZE = 32
_MAX_LENGTH = 128  # default number of tokens that texts are cut to

_Place = tuple[str, int]  # of a mask: "heads" or "rows", and the index in the list of layers


def check_width(width: WidthConfig, config: PreTrainedConfig, where: str = "student.width") -> None:
    """Check that no more heads or rows are to be kept than the model has.

    Args:
        width: The section ``student.width``.
        config: Configuration of the model to be narrowed.
        where: The section's name, for the error message.

    Raises:
        ModelError: A key exceeds what the model has (names key, given value and maximum), its family is unknown, or
            what the key prunes cannot be pruned in models of its family.
    """
    family_of(config, where)
    rows, heads = num_rows(config), num_heads(config)
    keys: tuple[tuple[str, Capability, int | None, int, str], ...] = (
        ("intermediate_size", "rows", width.intermediate_size, rows, "feed-forward rows"),
        ("num_attention_heads", "heads", width.num_attention_heads, heads, "attention heads"),
    )
    for name, part, wanted, there, what in keys:
        if wanted is None:
            continue
        family_of(config, f"{where}.{name}", part)
        if not 1 <= wanted <= there:
            raise ModelError(
                f"{where}.{name}: {wanted:,} given; each layer of the student has {there:,} {what}; "
                f"accepted: 1 to {there:,}, or null to keep all"
            )


def narrow(
    model: PreTrainedModel,
    tokenizer: Any,
    width: WidthConfig,
    texts: Sequence[TextOrPair],
    labels: Sequence[Any] = (),
    *,
    max_length: int | None = None,
    task: Task = SINGLE_LABEL,
) -> None:
    """Prune every layer of a classifier to its most important heads and rows, in their old order, in place.

    Args:
        model: The classifier.
        tokenizer: The classifier's tokenizer.
        width: How many to keep.
        texts: Training texts; importance is measured on ``NUM_TEXTS`` of them, evenly spaced.
        labels: Labels of these texts; without them the model's own predictions are used.
        max_length: Tokens that texts are cut to.
        task: The classifier's task.

    Raises:
        ModelError: ``check_width`` fails, or there are no texts.
    """
    check_width(width, model.config)
    if not texts:
        raise ModelError("student.width: importance is measured on training texts, but there are none")
    spread = np.linspace(0, len(texts) - 1, num=min(len(texts), NUM_TEXTS))
    rows: list[int] = spread.round().astype(int).tolist()
    chosen, length = [texts[row] for row in rows], max_length or _MAX_LENGTH
    if labels:
        split = task.tokenize_labelled(chosen, [labels[row] for row in rows], tokenizer, length)
    else:
        split = task.tokenize_texts(chosen, tokenizer, length, model.config.num_labels or 0)
    head_scores, row_scores = importance(model, split, task)
    if head_scores is not None and width.num_attention_heads not in (None, num_heads(model.config)):
        keep_heads(model, highest(head_scores, width.num_attention_heads))
    if row_scores is not None and width.intermediate_size not in (None, num_rows(model.config)):
        keep_rows(model, highest(row_scores, width.intermediate_size))


def importance(
    model: PreTrainedModel, split: TokenizedSplit, task: Task = SINGLE_LABEL
) -> tuple[Tensor | None, Tensor | None]:
    """Estimate, to first order, how removing a head or a feed-forward row would change the loss.

    With an all-ones mask ``m`` on the heads' outputs, the importance of head h is ``E_x |dL(x) / dm_h|``, which is
    ``E_x |sum_s Att_h(x)_s . dL(x) / dAtt_h(x)_s|`` over a text's positions s (Michel, Levy and Neubig 2019,
    arXiv:1905.10650, section 4.1). That of row i is the same for its activation a, ``E_x |sum_s a_is dL / da_is|``
    (Molchanov et al. 2017, arXiv:1611.06440, section 2.2). L is the task's loss against the labels; for a text
    without a label the model's prediction is used. Values are comparable only within a layer. Layers that share
    weights share a mask.

    Args:
        model: A classifier; it is run without dropout, and its mode is restored.
        split: N texts in its tokens, with the task's labels, which may be missing.
        task: The classifier's task.

    Returns:
        float32[layers, heads] and float32[layers, rows], or None where the family does not support their pruning;
        layers that share weights count as one.

    Raises:
        ModelError: The family is not known.
    """
    read: list[tuple[_Place, Tensor]] = []
    places: dict[_Place, Any] = {
        (part, layer): reader
        for layer, pair in enumerate(readers(model))
        for part, reader in zip(("heads", "rows"), pair, strict=True)
        if reader is not None
    }
    hooks = [
        reader.register_forward_pre_hook(partial(_record, read, place)) for place, reader in places.items()
    ]
    batches = length_batches(split.lengths, _BATCH_SIZE, training_limit(model).tokens)
    pad = int(model.config.pad_token_id or 0)
    sums: dict[_Place, Tensor] = {}
    try:
        with torch.enable_grad():
            for _, labels, logits in logits_of_batches(model, split, batches, pad_token_id=pad):
                # Texts in a batch are independent, so the gradient of the summed loss is that of each text.
                loss = task.hard_loss(logits, task.with_own_labels(labels, logits), num_items=1)
                for place, found in _per_text(loss, read, head_size(model.config)).items():
                    sums[place] = sums.get(place, 0) + found.abs().sum(0)
                read.clear()
    finally:
        for hook in hooks:
            hook.remove()

    def means(part: str) -> Tensor | None:
        own = [sums[place].cpu() / len(split) for place in places if place[0] == part]
        return torch.stack(own) if own else None

    return means("heads"), means("rows")


def _record(read: list[tuple[_Place, Tensor]], place: _Place, _: Any, inputs: tuple[Tensor, ...]) -> None:
    read.append((place, inputs[0]))


def _per_text(loss: Tensor, read: list[tuple[_Place, Tensor]], size: int) -> dict[_Place, Tensor]:
    """Return the change by each mask, [B, A] or [B, I], of heads [B, S, A * d] and rows [B, S, I] that were read."""
    changes: dict[_Place, Tensor] = {}
    gradients = torch.autograd.grad(loss, [each for _, each in read])
    for (place, each), gradient in zip(read, gradients, strict=True):
        change = (each.detach() * gradient).sum(1)
        if place[0] == "heads":
            change = change.unflatten(1, (-1, size)).sum(2)
        changes[place] = changes.get(place, 0) + change
    return changes


def highest(scores: Tensor, count: int | None) -> list[list[int]]:
    """Return for each row of float[N, M] the ascending indices of the ``count`` highest scores; on ties, the first."""
    best = torch.argsort(scores, dim=1, descending=True, stable=True)[:, :count]
    return best.sort(dim=1).values.tolist()
