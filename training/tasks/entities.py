"""Entities of tagged words: their spans, and precision, recall and F1 of predicted ones, in NumPy alone.

Tags are numbers: 0 is ``O``; entities of type t begin with 2 t + 1 (``B-``) and continue with 2 t + 2 (``I-``). Spans
are those of conlleval (Tjong Kim Sang and De Meulder, "Introduction to the CoNLL-2003 Shared Task", 2003), and of
seqeval by default: ``I-`` after another type or ``O`` begins an entity as well. A predicted entity is right if the text
has an entity of the same words and type. Shapes: N texts, W words of all texts, E entities; ``...`` resamples.
"""

from __future__ import annotations

import numpy as np

from ..ragged import Ragged
from .label_metrics import ratio


def entities(tags: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Find the entities of tagged words.

    Args:
        tags: int64[W], of all texts one after another.
        texts: int64[W]; number of each word's text. No entity continues into the next text.

    Returns:
        int64[E, 3]: for each entity the index of its first word, the index after its last word, and its type.
    """
    inside, types = tags > 0, (tags - 1) // 2
    continues = np.zeros(len(tags), dtype=bool)
    continues[1:] = inside[1:] & (tags[1:] % 2 == 0) & inside[:-1]
    continues[1:] &= (types[1:] == types[:-1]) & (texts[1:] == texts[:-1])
    starts = np.flatnonzero(inside & ~continues)
    ends = np.flatnonzero(inside & ~np.append(continues[1:], False)) + 1
    return np.stack([starts, ends, types[starts]], axis=1)


def entity_counts(predictions: Ragged, labels: Ragged, kind: int | None = None) -> np.ndarray:
    """Count the entities of each text, int64[N, 3]: the right ones, the predicted ones, and those of the labels.

    Args:
        predictions: Tags of each text's words.
        labels: Their labels.
        kind: The only type to count; None: all.
    """
    texts = labels.row_numbers
    found, true = (entities(each.values, texts) for each in (predictions, labels))
    if kind is not None:
        found, true = (each[each[:, 2] == kind] for each in (found, true))
    right = found[np.isin(_keys(found, len(texts)), _keys(true, len(texts)))]
    return np.stack(
        [np.bincount(texts[each[:, 0]], minlength=len(labels)) for each in (right, found, true)], axis=1
    )


def word_counts(predictions: Ragged, labels: Ragged) -> np.ndarray:
    """Count the words of each text, int64[N, 2]: those whose tag is right, and all."""
    right = np.bincount(
        labels.row_numbers, weights=predictions.values == labels.values, minlength=len(labels)
    )
    return np.stack([right.astype(np.int64), labels.lengths], axis=1)


def precision(counts: np.ndarray) -> np.ndarray:
    """Return the share of the predicted entities that are right, [...] of counts[..., 3]; 0 where none is predicted."""
    return ratio(counts[..., 0], counts[..., 1])


def recall(counts: np.ndarray) -> np.ndarray:
    """Return the share of the texts' entities that are predicted, [...] of counts[..., 3]; 0 where there are none."""
    return ratio(counts[..., 0], counts[..., 2])


def f1(counts: np.ndarray) -> np.ndarray:
    """Return the harmonic mean of precision and recall, [...] of counts[..., 3]; 0 where there are no entities."""
    return ratio(2 * counts[..., 0], counts[..., 1] + counts[..., 2])


def word_accuracy(counts: np.ndarray) -> np.ndarray:
    """Return the share of the words whose tag is right, [...] of counts[..., 2]."""
    return ratio(counts[..., 0], counts[..., 1])


def _keys(found: np.ndarray, num_words: int) -> np.ndarray:
    """Return a number for each entity; entities have the same number only if they are equal."""
    starts, ends, types = found.T
    return (types * (num_words + 1) + starts) * (num_words + 1) + ends
