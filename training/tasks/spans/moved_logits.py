"""Logits of windows at the tokens of another tokenizer, whose windows are others.

Shapes: L tokens of a window, K tokens of one of the given windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ragged import Ragged
from .head import LEAST_LOGIT
from .windows import NO_CONTEXT, Window


def moved(given: Ragged, windows: Sequence[Window], spans: Ragged, questions: np.ndarray) -> Ragged:
    """Return logits of windows at other tokens, rows of float32[L, 2].

    A token has the logits of the given tokens that begin in it, or end in it for the second logit, of which several add
    their probabilities; its window takes them from the one of the same question that shares most characters of the
    context. The first token has those of no answer, every other one outside of the context ``LEAST_LOGIT``.

    Args:
        given: Logits of ``windows``, rows of [K, 2].
        windows: The windows that they are for.
        spans: Rows of [L, 2], the characters of the tokens to have logits, as ``Window.spans``.
        questions: Number of the question of each row of ``spans``.
    """
    reach = np.array([_reach(each.spans) for each in windows], dtype=np.int64).reshape(-1, 2)
    numbers = np.array([each.question for each in windows], dtype=np.int64)
    rows = []
    for own, question in zip(spans, questions.tolist(), strict=True):
        first, end = np.searchsorted(numbers, [question, question + 1])
        start, stop = _reach(own)
        shared = np.minimum(reach[first:end, 1], stop) - np.maximum(reach[first:end, 0], start)
        nearest = int(first) + int(shared.argmax())
        rows.append(_at(own, windows[nearest].spans, given[nearest]))
    return Ragged.of(rows, np.float32, (2,))


def _reach(spans: np.ndarray) -> tuple[int, int]:
    """Return the first character of a window's context tokens, and the one after their last."""
    inside = spans[spans[:, 0] != NO_CONTEXT]
    return (int(inside[0, 0]), int(inside[-1, 1])) if len(inside) else (0, 0)


def _at(spans: np.ndarray, theirs: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return logits[K, 2] of tokens with the characters ``theirs`` at tokens with the characters ``spans``."""
    found = np.full((len(spans), 2), -np.inf)
    found[0] = logits[0]
    own, given = (np.flatnonzero(each[:, 0] != NO_CONTEXT) for each in (spans, theirs))
    if len(own) and len(given):
        places, others = spans[own], theirs[given]
        firsts = np.searchsorted(places[:, 1], others[:, 0], "right")
        _add(found[:, 0], own, firsts, logits[given, 0], others, places)
        lasts = np.searchsorted(places[:, 0], others[:, 1], "left") - 1
        _add(found[:, 1], own, lasts, logits[given, 1], others, places)
    return np.maximum(found, LEAST_LOGIT).astype(np.float32)


def _add(
    found: np.ndarray,
    own: np.ndarray,
    at: np.ndarray,
    values: np.ndarray,
    others: np.ndarray,
    places: np.ndarray,
) -> None:
    """Add the probabilities of logits to the tokens ``own[at]``, where these share characters with theirs."""
    there = np.clip(at, 0, len(places) - 1)
    shares = (at == there) & (places[there, 0] < others[:, 1]) & (others[:, 0] < places[there, 1])
    np.logaddexp.at(found, own[there[shares]], values[shares].astype(np.float64))
