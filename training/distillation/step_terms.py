"""The terms of the training loss, averaged over the steps between two lines of the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.trainer_pt_utils import nested_gather


class StepTerms:
    """Sums of each term over the micro-batches so far; false while there are none."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._num_steps: float | Tensor = 0.0

    def __bool__(self) -> bool:
        return bool(self._sums)

    def add(self, share: float | Tensor, scale: int, values: Mapping[str, Tensor]) -> None:
        """Add the terms of a micro-batch, ``share`` of an optimizer step, without synchronizing with the device."""
        added = {name: self._sums.get(name, 0) + value * scale for name, value in values.items()}
        self._sums = {**self._sums, **added}  # a new one, so that a shallow copy of this object keeps its own
        self._num_steps = self._num_steps + share

    def means(self, device: torch.device, parallel_mode: Any) -> dict[str, float]:
        """Return each term's mean over the steps of all processes since the last call."""
        num_steps = torch.as_tensor(self._num_steps, dtype=torch.float32, device=device)
        sums = torch.stack([*self._sums.values(), num_steps])
        gathered: Any = nested_gather(sums[None], parallel_mode)
        *totals, total_steps = gathered.sum(dim=0).tolist()
        means = {name: total / total_steps for name, total in zip(self._sums, totals, strict=True)}
        self._sums, self._num_steps = {}, 0.0
        return means
