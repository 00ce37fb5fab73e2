"""Base class and registry of decoders, which turn logits into predictions for each task, in NumPy alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ....errors import InputError
from ..scores import Threshold


class Decoder(ABC):
    """Turn logits into predictions, as defined by the task of the same name in ``training/tasks``.

    Attributes:
        name: The task's name in an artifact's ``distiltune.json``.
        has_threshold: Whether a threshold can mark texts as out of scope.
    """

    name: ClassVar[str]
    has_threshold: ClassVar[bool] = False

    @abstractmethod
    def num_outputs(self, labels: Sequence[str]) -> int:
        """Return C, the number of a graph's outputs for one text."""

    @abstractmethod
    def decode(
        self,
        logits: np.ndarray,
        labels: Sequence[str],
        threshold: Threshold | None,
        temperature: float = 1.0,
    ) -> list[dict[str, Any]]:
        """Return a prediction for each of N texts.

        Args:
            logits: [N, C].
            labels: Label names, in the order of the outputs.
            threshold: Threshold for out-of-scope texts, if there is one; applied to the logits themselves.
            temperature: Divisor of the logits in probabilities; it changes no prediction.
        """

    def decode_one(
        self,
        logits: np.ndarray,
        labels: Sequence[str],
        threshold: Threshold | None,
        temperature: float = 1.0,
    ) -> dict[str, Any]:
        """Return the prediction for one text of logits[C], the same that ``decode`` gives for logits[1, C].

        A task may override it with a faster computation.
        """
        return self.decode(logits[None], labels, threshold, temperature)[0]

    def ranked(
        self,
        logits: np.ndarray,
        labels: Sequence[str],
        threshold: Threshold | None,
        count: int,
        temperature: float = 1.0,
    ) -> list[list[dict[str, Any]]]:
        """Return the best ``count`` predictions for each of N texts, the first of which is that of ``decode``.

        Raises:
            InputError: The task has one prediction for a text.
        """
        raise InputError(f"top_k is {count}, but the task {self.name} has no order of labels; leave it out")


class Tokens(NamedTuple):
    """The tokens of a text, special ones included.

    Attributes:
        text: The text.
        offsets: First character of each token, and the one after its last.
        word_ids: Number of each token's word before it was split into pieces; None for a special token.
    """

    text: str
    offsets: Sequence[tuple[int, int]]
    word_ids: Sequence[int | None]


class TokenDecoder(Decoder):
    """Decoder of a task whose model has outputs for each token; ``decode`` gives the tag of each of N tokens."""

    @abstractmethod
    def decode_tokens(
        self,
        logits: np.ndarray,
        tokens: Tokens,
        labels: Sequence[str],
        temperature: float = 1.0,
    ) -> list[dict[str, Any]]:
        """Return the predictions for a text, none or several.

        Args:
            logits: [L, C].
            tokens: The L tokens.
            labels: Label names, in the order of the outputs.
            temperature: Divisor of the logits in probabilities.
        """

    def decode(
        self,
        logits: np.ndarray,
        labels: Sequence[str],
        threshold: Threshold | None,
        temperature: float = 1.0,
    ) -> list[dict[str, Any]]:
        """Return the label of the largest logit, and its probability, for each of N tokens of logits[N, C]."""
        scaled = logits / temperature
        best = scaled.argmax(axis=-1)
        below = scaled - np.take_along_axis(scaled, best[:, None], axis=-1)
        scores = 1 / np.exp(below).sum(axis=-1)  # exp(0) is 1
        return [
            {"label": labels[number], "score": float(score)}
            for number, score in zip(best.tolist(), scores, strict=True)
        ]


DECODERS: dict[str, Decoder] = {}
"""Every registered decoder by its task's name; filled when the package is imported."""


def register(decoder: Decoder) -> Decoder:
    """Register a task's decoder and return it.

    Raises:
        ValueError: The task already has one.
    """
    if decoder.name in DECODERS:
        raise ValueError(f"task {decoder.name!r} already has a decoder; give it another name")
    DECODERS[decoder.name] = decoder
    return decoder
