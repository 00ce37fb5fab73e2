"""What the runtime does with logits: one decoder a task, in NumPy alone; and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ..scores import Threshold


class Decoder(ABC):
    """Turns logits into answers, as the task of the same name in ``training/tasks`` means them.

    Attributes:
        name: The task, as an artifact's ``config.json`` records it.
        has_threshold: Whether a threshold can tell texts to be out of scope.
    """

    name: ClassVar[str]
    has_threshold: ClassVar[bool] = False

    @abstractmethod
    def num_outputs(self, labels: Sequence[str]) -> int:
        """Return C, the outputs that a graph has for a text."""

    @abstractmethod
    def decode(
        self, logits: np.ndarray, labels: Sequence[str], threshold: Threshold | None
    ) -> list[dict[str, Any]]:
        """Return the answer of each of N texts.

        Args:
            logits: [N, C].
            labels: Names of the labels, in the order of the outputs.
            threshold: For out-of-scope texts; None: there is none.
        """


DECODERS: dict[str, Decoder] = {}
"""Every registered decoder by its task's name; the package fills it."""


def register(decoder: Decoder) -> Decoder:
    """Add a task's decoder, and return it.

    Raises:
        ValueError: The task has one already.
    """
    if decoder.name in DECODERS:
        raise ValueError(f"task {decoder.name!r} has a decoder already; give it another name")
    DECODERS[decoder.name] = decoder
    return decoder
