"""Move the logits of windows to the tokens and windows of another tokenizer.

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

    Each window takes its logits from the given window of the same question that shares the most characters of the
    context. A token's first logit comes from the given tokens that begin in it, its second from those that end in it;
    the probabilities of several are added. The window's first token keeps the logits of no answer; other tokens outside
    the context have ``LEAST_LOGIT``.

    Args:
        given: Logits of ``windows``, rows of [K, 2].
        windows: The given windows.
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
        rows.append(_moved_to(own, windows[nearest].spans, given[nearest]))
    return Ragged.of(rows, np.float32, (2,))


def _reach(spans: np.ndarray) -> tuple[int, int]:
    """Return the first character of a window's context tokens, and the one after their last."""
    inside = spans[spans[:, 0] != NO_CONTEXT]
    return (int(inside[0, 0]), int(inside[-1, 1])) if len(inside) else (0, 0)


def _moved_to(spans: np.ndarray, given_spans: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return logits[K, 2] of tokens with the characters ``given_spans`` at tokens with the characters ``spans``."""
    found = np.full((len(spans), 2), -np.inf)
    found[0] = logits[0]
    own, given = (np.flatnonzero(each[:, 0] != NO_CONTEXT) for each in (spans, given_spans))
    if len(own) and len(given):
        targets, sources = spans[own], given_spans[given]
        firsts = np.searchsorted(targets[:, 1], sources[:, 0], "right")
        _add(found[:, 0], own, firsts, logits[given, 0], sources, targets)
        lasts = np.searchsorted(targets[:, 0], sources[:, 1], "left") - 1
        _add(found[:, 1], own, lasts, logits[given, 1], sources, targets)
    return np.maximum(found, LEAST_LOGIT).astype(np.float32)


def _add(
    found: np.ndarray,
    own: np.ndarray,
    at: np.ndarray,
    values: np.ndarray,
    sources: np.ndarray,
    targets: np.ndarray,
) -> None:
    """Add the probabilities of logits to the tokens ``own[at]``, where the characters of source and target overlap."""
    clipped = np.clip(at, 0, len(targets) - 1)
    overlap = (at == clipped) & (targets[clipped, 0] < sources[:, 1]) & (sources[:, 0] < targets[clipped, 1])
    np.logaddexp.at(found, own[clipped[overlap]], values[overlap].astype(np.float64))
