"""Base class and registry of decoders, which turn logits into predictions for each task, with NumPy only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ....errors import InputError
from ....texts import PAIR_COLUMN
from ..scores import Threshold

SPANS = "spans"
"""Field of an object that has a text and the predictions for parts of it."""


class Decoder(ABC):
    """Turn logits into predictions, as defined by the task of the same name in ``training/tasks``.

    Attributes:
        name: The task's name in an artifact's ``distiltune.json``.
        names_one: Whether an answer is one label, which is the first of ``ranked``.
        has_threshold: Whether an artifact can have a threshold: for out-of-scope texts, for each label, or for no
            answer.
        of_tokens: Whether a graph has outputs for each token.
        of_windows: Whether a text is a question with its context, which is read in windows.
        columns: Usual columns of texts and of second texts in a table.
    """

    name: ClassVar[str]
    of_tokens: ClassVar[bool] = False
    of_windows: ClassVar[bool] = False
    columns: ClassVar[tuple[str, str]] = ("text", PAIR_COLUMN)
    names_one: ClassVar[bool] = False
    has_threshold: ClassVar[bool] = False

    @abstractmethod
    def num_outputs(self, labels: Sequence[str]) -> int:
        """Return C, the number of a graph's outputs for one text."""

    def read_threshold(self, given: Any, labels: Sequence[str]) -> Any:
        """Read the value of ``threshold`` in an artifact's ``distiltune.json``; called only where ``has_threshold``.

        Raises:
            ValueError: It is not a threshold; the message states what it must be.
        """
        return Threshold.from_json(given, labels)

    @abstractmethod
    def decode(
        self,
        logits: np.ndarray,
        labels: Sequence[str],
        threshold: Any,
        temperature: float = 1.0,
    ) -> list[dict[str, Any]]:
        """Return a prediction for each of N texts.

        Args:
            logits: [N, C].
            labels: Label names, in the order of the outputs.
            threshold: What ``read_threshold`` returned, if the artifact has one.
            temperature: Divisor of the logits in probabilities; it changes no prediction.
        """

    def decode_one(
        self,
        logits: np.ndarray,
        labels: Sequence[str],
        threshold: Any,
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
        threshold: Any,
        count: int,
        temperature: float = 1.0,
    ) -> list[list[dict[str, Any]]]:
        """Return the best ``count`` labels for each of N texts; where ``names_one``, the first is that of ``decode``.

        Raises:
            InputError: The task has one prediction for a text.
        """
        raise InputError(f"top_k is {count}, but the task {self.name} has no order of labels; leave it out")

    def compared(self, logits: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
        """Return the predictions for logits[N, C], or for those of a probe's tokens, without scores and threshold."""
        return [self.without_scores(each) for each in self.decode(logits, labels, None)]

    def without_scores(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return what two equal answers of ``decode`` have in common, whatever the rounding of their logits."""
        return {name: value for name, value in answer.items() if name != "score"}

    def margin(self, logits: np.ndarray) -> float:
        """Return how far logits[C] are from another answer; by default, the largest logit minus the second."""
        second, best = sorted([-np.inf, *logits])[-2:]
        return float(best - second)

    def fields(self, answer: Any) -> dict[str, Any]:
        """Return an answer as fields of an object that also has the text."""
        return answer

    def cells(self, answer: dict[str, Any]) -> list[tuple[str, float]]:
        """Return the fields of an answer as names with their numbers, for a line or a table."""
        return [(answer["label"], answer["score"])]


class Tokens(NamedTuple):
    """The tokens of a text, special ones included.

    Attributes:
        text: The text.
        offsets: First character of each token, and the one after its last.
        word_ids: Index of the word that each token is a piece of; None for a special token.
    """

    text: str
    offsets: Sequence[tuple[int, int]]
    word_ids: Sequence[int | None]


class TokenDecoder(Decoder):
    """Decoder of a task whose model has outputs for each token; ``decode`` gives the tag of each of N tokens."""

    of_tokens: ClassVar[bool] = True

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
        threshold: Any,
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

    def margin(self, logits: np.ndarray) -> float:
        """Return the smallest margin of a text's tokens, from logits[L, C]."""
        return min(super(TokenDecoder, self).margin(each) for each in logits)

    def fields(self, answer: Any) -> dict[str, Any]:
        """Return a text's predictions as one field."""
        return {SPANS: answer}

    def cells(self, answer: dict[str, Any]) -> list[tuple[str, float]]:
        """Return the labels of a text's predictions with their scores."""
        return [(each["label"], each["score"]) for each in answer[SPANS]]


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
