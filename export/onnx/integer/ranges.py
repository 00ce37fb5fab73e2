"""Measure the ranges of a convolution's layers on texts, from which the scales of its integers follow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ....training.models.convolution import ConvolutionForSequenceClassification

_BATCH_SIZE, _MOST_TOKENS = 64, 16_384  # in a batch


class Ranges:
    """The ranges of each layer's outputs over some texts, by the name of its module.

    Attributes:
        largest: float[F], the largest value of each column, at least 0.
        magnitude: The largest absolute value.
    """

    def __init__(self) -> None:
        self.largest: dict[str, np.ndarray] = {}
        self.magnitude: dict[str, float] = {}

    def observe(self, name: str, outputs: Tensor) -> None:
        """Take in outputs[..., F]."""
        low, high = torch.aminmax(outputs.flatten(0, -2), dim=0)
        found = high.clamp(min=0).numpy()
        self.largest[name] = np.maximum(self.largest.get(name, 0.0), found)
        self.magnitude[name] = max(self.magnitude.get(name, 0.0), float(-low.min()), float(high.max()))


def measure_ranges(model: ConvolutionForSequenceClassification, texts: Sequence[np.ndarray]) -> Ranges:
    """Run a model in evaluation mode on texts, and return its layers' ranges.

    Args:
        model: The model; layers are named as in it.
        texts: Token ids of each text, int[L].
    """
    ranges, names = Ranges(), {module: name for name, module in model.named_modules()}
    encoder: Any = model.encoder
    watched = [*encoder.filters, model.dense]
    for block in encoder.blocks:
        watched += [block.first, block.second, block]

    def observe(module: nn.Module, _: Any, output: Tensor) -> None:
        ranges.observe(names[module], output.detach())

    with ExitStack() as hooks, torch.no_grad():
        for module in watched:
            hooks.callback(module.register_forward_hook(observe).remove)
        for ids in _batches(texts):
            model(ids)
    return ranges


def _batches(texts: Sequence[np.ndarray]) -> Iterator[Tensor]:
    """Yield the token ids of texts of one length, int64[B, L]."""
    by_length: defaultdict[int, list[np.ndarray]] = defaultdict(list)
    for ids in texts:
        by_length[len(ids)].append(ids)
    for length in sorted(by_length):
        if length:
            size = max(1, min(_BATCH_SIZE, _MOST_TOKENS // length))
            yield from torch.tensor(np.stack(by_length[length]), dtype=torch.int64).split(size)
