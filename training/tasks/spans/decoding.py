"""Decode answers from the logits of windows: the best span of context tokens, and its probability.

Training, evaluation, the benchmark and the torch-free runtime all decode here, so the module needs NumPy alone. A span
begins at a token of the context and ends at the same or a later one of the same window, with at most ``MOST_TOKENS``
tokens; its value is the first logit of its first token plus the second logit of its last token. Shapes: N questions, M
windows of them, W context tokens of a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...ragged import Ragged, offsets_of
from .windows import NO_CONTEXT, Window

MOST_TOKENS = 30
"""Most tokens of an answer."""


@dataclass(frozen=True)
class SpanLogits:
    """Logits of the context tokens of M windows, of N questions.

    Attributes:
        logits: Rows of float32[W, 2]: of a span that begins at a token, and of one that ends there.
        spans: Rows of int64[W, 2]: first character of each token in the context, and the one after its last.
        null: float32[M]; the value of no answer: the sum of both logits of the window's first token.
        questions: int64[M], ascending; number of each window's question. Every question has a window.
    """

    logits: Ragged
    spans: Ragged
    null: np.ndarray
    questions: np.ndarray

    @classmethod
    def of(cls, logits: Ragged, spans: Ragged, questions: np.ndarray) -> SpanLogits:
        """Select the context tokens of windows.

        Args:
            logits: Rows of [L, 2], of all tokens.
            spans: Rows of [L, 2], as ``Window.spans``.
            questions: Number of each window's question.
        """
        inside = spans.values[:, 0] != NO_CONTEXT
        offsets = offsets_of(inside.astype(np.int64))[spans.offsets]
        first = logits.values[logits.offsets[:-1]].astype(np.float32)
        return cls(
            Ragged(logits.values[inside].astype(np.float32, copy=False), offsets),
            Ragged(spans.values[inside].astype(np.int64), offsets),
            first.sum(axis=1),
            np.asarray(questions, dtype=np.int64),
        )

    @classmethod
    def of_windows(cls, windows: Sequence[Window], logits: Ragged) -> SpanLogits:
        """Select the context tokens of windows with these logits, rows of [L, 2]."""
        spans = Ragged.of([each.spans for each in windows], np.int64, (2,))
        return cls.of(logits, spans, np.array([each.question for each in windows], dtype=np.int64))

    def __len__(self) -> int:
        return int(self.questions[-1]) + 1 if len(self.questions) else 0

    def of_question(self, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return logits[W, 2] and spans[W, 2] of each window of a question."""
        first, end = np.searchsorted(self.questions, [number, number + 1])
        return [(self.logits[row], self.spans[row]) for row in range(first, end)]

    def select(self, questions: Sequence[int]) -> SpanLogits:
        """Return the windows of some questions, which are numbered from 0 in their order."""
        bounds = np.searchsorted(self.questions, [[number, number + 1] for number in questions])
        rows = np.concatenate([np.arange(*each) for each in bounds])
        numbers = np.repeat(np.arange(len(questions)), bounds[:, 1] - bounds[:, 0])
        return SpanLogits(self.logits[rows], self.spans[rows], self.null[rows], numbers)

    def with_columns(self, columns: Sequence[int]) -> SpanLogits:
        """Return the logits with their two columns in another order."""
        return SpanLogits(
            self.logits.like(self.logits.values[:, columns]), self.spans, self.null, self.questions
        )

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Return the arrays to store, whose names begin with ``name``; ``of_arrays`` reads them."""
        return {
            name: self.logits.values,
            f"{name}_offsets": self.logits.offsets,
            f"{name}_spans": self.spans.values,
            f"{name}_null": self.null,
            f"{name}_questions": self.questions,
        }

    @classmethod
    def of_arrays(cls, stored: Mapping[str, Any], name: str) -> SpanLogits:
        """Read what ``arrays`` returned; raises ``KeyError`` if one is missing, ``ValueError`` if they do not fit."""
        names = (name, *(f"{name}_{part}" for part in ("offsets", "spans", "null", "questions")))
        logits, offsets, spans, null, questions = (stored[each] for each in names)
        if logits.ndim != 2 or spans.shape != (len(logits), 2) or offsets[-1] != len(logits):
            raise ValueError(f"{len(logits)} logits for {len(spans)} tokens")
        if not len(null) == len(questions) == len(offsets) - 1:
            raise ValueError(f"{len(null)} and {len(questions)} values for {len(offsets) - 1} windows")
        return cls(Ragged(logits, offsets), Ragged(spans, offsets), null, questions)


class Decoded(NamedTuple):
    """The best spans of N questions.

    Attributes:
        spans: int64[N, 2]; first character of each span in the context, and the one after its last; 0 and 0 without a
            span.
        best: float64[N]; their values, minus infinity where a context has no token.
        null: float64[N]; the value of no answer, the smallest of the question's windows.
    """

    spans: np.ndarray
    best: np.ndarray
    null: np.ndarray


def span_values(logits: np.ndarray, most_tokens: int = MOST_TOKENS) -> np.ndarray:
    """Return the value of each span of logits[W, 2], float64[W, A]: at [i, k] that of the span from token i to i + k.

    It is minus infinity for a span that ends after the last token.
    """
    starts, ends = logits.astype(np.float64).T
    padded = np.concatenate([ends, np.full(most_tokens, -np.inf)])
    # Row i is a view of padded[i : i + most_tokens]; sliding_window_view takes ten times as long to create it.
    following = np.ndarray((len(ends), most_tokens), padded.dtype, padded, strides=2 * padded.strides)
    return starts[:, None] + following


def best_span(logits: np.ndarray) -> tuple[int, int, float]:
    """Return first and last token of the best span of logits[W, 2], W above 0, and its value; of equals, the first."""
    values = span_values(logits)
    start, more = divmod(int(values.argmax()), values.shape[1])
    return start, start + more, float(values[start, more])


def decode(given: SpanLogits) -> Decoded:
    """Return the best span of each question over all of its windows; of equal ones, the first."""
    num = len(given)
    spans, best, null = np.zeros((num, 2), dtype=np.int64), np.full(num, -np.inf), np.full(num, np.inf)
    np.minimum.at(null, given.questions, given.null.astype(np.float64))
    for row, number in enumerate(given.questions.tolist()):
        if not len(own := given.logits[row]):
            continue
        start, end, value = best_span(own)
        if value > best[number]:
            places = given.spans[row]
            best[number], spans[number] = value, (places[start, 0], places[end, 1])
    return Decoded(spans, best, null)


def is_unanswered(decoded: Decoded, threshold: float | None) -> np.ndarray:
    """Return whether no answer is given to each question, bool[N].

    Args:
        decoded: The best spans.
        threshold: By how much the value of no answer must exceed that of the best span; None: all are answered.
    """
    if threshold is None:
        return np.zeros(len(decoded.best), dtype=bool)
    return (decoded.null - decoded.best > threshold) | ~np.isfinite(decoded.best)


class Candidates(NamedTuple):
    """The possible answers to a question: every span of all of its windows, and no answer where that may be given.

    Attributes:
        values: float64[K]; their values after subtracting the largest.
        own: float64[k]; those of the values that belong to the predicted answer, which several windows may contain.
    """

    values: np.ndarray
    own: np.ndarray

    def probability(self, temperature: float) -> float:
        """Return the probability of the predicted answer by softmax(values / temperature); 0 without any."""
        if not len(self.values):
            return 0.0
        total = float(np.exp(self.values / temperature).sum())
        return min(1.0, float(np.exp(self.own / temperature).sum()) / total)


def candidates(given: SpanLogits, decoded: Decoded, threshold: float | None) -> list[Candidates]:
    """Return the possible answers to each of N questions.

    Args:
        given: Logits of their windows.
        decoded: Their best spans.
        threshold: See ``is_unanswered``; if given, "no answer" is a candidate too, with the smallest of its values.
    """
    unanswered = is_unanswered(decoded, threshold).tolist()
    return [
        _candidates(given.of_question(number), span, None if threshold is None else null, is_null=none)
        for number, (span, null, none) in enumerate(
            zip(decoded.spans, decoded.null.tolist(), unanswered, strict=True)
        )
    ]


def _candidates(
    windows: Sequence[tuple[np.ndarray, np.ndarray]], span: np.ndarray, null: float | None, *, is_null: bool
) -> Candidates:
    values = [span_values(logits) for logits, _ in windows]
    every = np.concatenate([each[np.isfinite(each)] for each in values] + ([] if null is None else [[null]]))
    if not len(every):
        return Candidates(every, every)
    own = [np.array([null])] if is_null and null is not None else []
    for each, (_, places) in zip([] if is_null else values, windows, strict=False):
        starts, ends = np.flatnonzero(places[:, 0] == span[0]), np.flatnonzero(places[:, 1] == span[1])
        further = ends[None] - starts[:, None]  # distance from each first token to each last token
        first, last = np.nonzero((further >= 0) & (further < each.shape[1]))
        own.append(each[starts[first], further[first, last]])
    return Candidates(every - every.max(), np.concatenate(own) - every.max())


def trimmed(context: str, span: Sequence[int] | np.ndarray) -> tuple[int, int]:
    """Return a span without white space at its ends, which some tokenizers count as part of a token."""
    start, end = int(span[0]), int(span[1])
    text = context[start:end]
    kept = text.strip()
    if not kept:
        return start, start
    start += len(text) - len(text.lstrip())
    return start, start + len(kept)


def answers_of(contexts: Sequence[str], given: SpanLogits, threshold: float | None) -> list[str]:
    """Return the answers to N questions, an empty string where no answer is given.

    Args:
        contexts: The contexts of the questions.
        given: Logits of their windows.
        threshold: See ``is_unanswered``.
    """
    decoded = decode(given)
    found = []
    for context, span, none in zip(contexts, decoded.spans, is_unanswered(decoded, threshold), strict=True):
        start, end = (0, 0) if none else trimmed(context, span)
        found.append(context[start:end])
    return found
