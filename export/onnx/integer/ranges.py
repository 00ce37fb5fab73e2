"""Measure the ranges of a convolution's layers on texts, from which the scales of its integers follow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ....training.models.convolution import ConvolutionForSequenceClassification, WindowProduct

_BATCH_SIZE = 64


class Ranges:
    """The largest values of each layer over some texts, by the name of its module.

    Attributes:
        largest: float[F], of each column where there is text, at least 0.
        magnitude: The largest absolute value where there is text.
        beside: float[F], of each column of a window around a position of padding, at least 0; of windows only.
    """

    def __init__(self) -> None:
        self.largest: dict[str, np.ndarray] = {}
        self.magnitude: dict[str, float] = {}
        self.beside: dict[str, np.ndarray] = {}

    def observe(self, name: str, inside: Tensor, beside: Tensor | None = None) -> None:
        """Take in outputs[..., F] where there is text, and beside it."""
        _raise(self.largest, name, inside)
        self.magnitude[name] = max(self.magnitude.get(name, 0.0), float(inside.abs().amax()))
        if beside is not None:
            _raise(self.beside, name, beside)


def measure_ranges(model: ConvolutionForSequenceClassification, texts: Sequence[np.ndarray]) -> Ranges:
    """Run a model in evaluation mode on texts, with padding on both sides, and return its layers' ranges.

    Args:
        model: The model; layers are named as in it.
        texts: Token ids of each text, int[L].
    """
    ranges, names = Ranges(), {module: name for name, module in model.named_modules()}
    encoder: Any = model.encoder
    config: Any = model.config
    reach = max([*config.window_sizes, config.block_window_size if config.num_blocks else 1])
    positions = [*encoder.filters]
    for block in encoder.blocks:
        positions += [block.first, block.second, block]

    def observe_positions(module: nn.Module, _: Any, output: Tensor) -> None:
        values = output.detach()
        beside = torch.cat([values[:, :reach], values[:, -reach:]], dim=1)
        is_window = isinstance(module, WindowProduct)
        ranges.observe(names[module], values[:, reach:-reach], beside if is_window else None)

    def observe_vector(module: nn.Module, _: Any, output: Tensor) -> None:
        ranges.observe(names[module], output.detach())

    with ExitStack() as hooks, torch.no_grad():
        for module in positions:
            hooks.callback(module.register_forward_hook(observe_positions).remove)
        hooks.callback(model.dense.register_forward_hook(observe_vector).remove)
        for ids in _batches(texts):
            text = nn.functional.pad(torch.ones_like(ids), (reach, reach))
            model(nn.functional.pad(ids, (reach, reach), value=config.pad_token_id), text)
    return ranges


def _batches(texts: Sequence[np.ndarray]) -> Iterator[Tensor]:
    """Yield the token ids of texts of one length, int64[B, L]."""
    by_length: defaultdict[int, list[np.ndarray]] = defaultdict(list)
    for ids in texts:
        by_length[len(ids)].append(ids)
    for length in sorted(by_length):
        if length:
            yield from torch.tensor(np.stack(by_length[length]), dtype=torch.int64).split(_BATCH_SIZE)


def _raise(largest: dict[str, np.ndarray], name: str, values: Tensor) -> None:
    found = values.flatten(0, -2).amax(dim=0).clamp(min=0).numpy()
    largest[name] = np.maximum(largest[name], found) if name in largest else found
