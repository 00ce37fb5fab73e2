"""Decode the answer to a question from the logits of its windows: the best span of its context, or none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ....training.ragged import Ragged
from ....training.tasks.spans.decoding import (
    SpanLogits,
    best_span,
    candidates,
    decode,
    is_unanswered,
    span_values,
    trimmed,
)
from ....training.tasks.spans.windows import Window
from .base import Decoder, register


class WindowDecoder(Decoder):
    """Decoder whose prediction for a pair is ``{"answer": str, "score": float, "start": int, "end": int}``.

    ``context[start:end]`` is the answer. It is empty, with ``start`` and ``end`` 0, where a model with a threshold
    gives none, and where the context has no token.
    """

    name: ClassVar[str] = "question_answering"
    has_threshold: ClassVar[bool] = True
    of_tokens: ClassVar[bool] = True
    of_windows: ClassVar[bool] = True
    columns: ClassVar[tuple[str, str]] = ("question", "context")

    def num_outputs(self, labels: Sequence[str]) -> int:
        """Return the number of outputs of a token: one for the start of an answer, one for its end."""
        return len(labels)

    def read_threshold(self, given: Any, labels: Sequence[str]) -> float:
        """Read by how much the value of no answer must exceed that of the best span."""
        del labels
        if type(given) not in (int, float) or not math.isfinite(given):
            raise ValueError("it must be null or a number")
        return float(given)

    def decode_windows(
        self,
        contexts: Sequence[str],
        windows: Sequence[Window],
        logits: Ragged,
        threshold: float | None,
        temperature: float = 1.0,
    ) -> list[dict[str, Any]]:
        """Return the prediction for each of N pairs.

        Args:
            contexts: The contexts.
            windows: The windows of all pairs.
            logits: Their logits, rows of [L, 2].
            threshold: What ``read_threshold`` returned, if the artifact has one.
            temperature: Divisor of the logits in probabilities; it changes no prediction.
        """
        given = SpanLogits.of_windows(windows, logits)
        decoded = decode(given)
        unanswered, possible = is_unanswered(decoded, threshold), candidates(given, decoded, threshold)
        answers = []
        for number, context in enumerate(contexts):
            start, end = (0, 0) if unanswered[number] else trimmed(context, decoded.spans[number])
            score = possible[number].probability(temperature)
            answers.append({"answer": context[start:end], "score": score, "start": start, "end": end})
        return answers

    def decode(
        self,
        logits: np.ndarray,
        labels: Sequence[str],
        threshold: Any,
        temperature: float = 1.0,
    ) -> list[dict[str, Any]]:
        """Raise an error: logits of questions are decoded with their windows, by ``decode_windows``."""
        raise NotImplementedError(f"logits of shape {logits.shape} given; use decode_windows")

    def compared(self, logits: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
        """Return the first and last token of the best span for logits[L, 2] of one window, whatever its tokens are."""
        del labels
        first, last, _ = best_span(logits)
        return [{"start": first, "end": last}]

    def margin(self, logits: np.ndarray) -> float:
        """Return how far logits[L, 2] of a window are from another answer: the best span's value minus the second's."""
        second, best = np.sort(span_values(logits), axis=None)[-2:]
        return float(best - second)

    def cells(self, answer: dict[str, Any]) -> list[tuple[str, float]]:
        """Return the answer with its score."""
        return [(answer["answer"], answer["score"])]


register(WindowDecoder())
