"""Find labels that are probably wrong, labels that are confused, and near-duplicates across splits.

Shapes: N texts, C labels.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....texts import TextOrPair, parts_of

MIN_SIMILARITY = 0.8
"""Smallest Jaccard similarity of the words of two texts that are near-duplicates."""
_MOST_SHARED = 1000  # texts with the same rare word; further ones are not compared
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class LabelIssue:
    """A text whose label is probably wrong.

    Attributes:
        row: Row in its split, counted from 0.
        label: Number of the label that it has.
        predicted: Number of the label that the teacher is confident of.
        label_probability, predicted_probability: The teacher's probabilities of the two.
    """

    row: int
    label: int
    predicted: int
    label_probability: float
    predicted_probability: float


@dataclass(frozen=True)
class NearDuplicate:
    """A text that almost equals a text of another split.

    Attributes:
        split, row: The text of the evaluated split; rows count from 0.
        other_split, other_row: The text that it resembles.
        similarity: Jaccard similarity of their words, 0 to 1.
    """

    split: str
    row: int
    other_split: str
    other_row: int
    similarity: float


def label_issues(probabilities: np.ndarray, labels: np.ndarray) -> list[LabelIssue]:
    """Return the texts whose label a model confidently contradicts, the clearest contradiction first.

    A text is counted for the most probable label j whose probability reaches t_j, the mean probability that the texts
    labelled j have for j; it is an issue if j is not its own label (confident learning: Northcutt, Jiang and Chuang,
    "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70, 2021). Issues are ordered by the margin
    p(j) - p(label).

    Args:
        probabilities: float[N, C], from a model that was not trained on these labels; one that was agrees with them.
        labels: int[N].
    """
    num_labels = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=num_labels)
    sums = np.bincount(labels, weights=own, minlength=num_labels)
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    predicted = reached.argmax(axis=1)
    value = reached[np.arange(len(labels)), predicted]
    rows = np.flatnonzero((value > own) & (predicted != labels))
    rows = rows[np.argsort(own[rows] - value[rows], kind="stable")]
    return [
        LabelIssue(int(i), int(labels[i]), int(predicted[i]), float(own[i]), float(value[i])) for i in rows
    ]


def confused_labels(predictions: np.ndarray, labels: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Return pairs of labels that are mistaken for each other, the most frequent first.

    Args:
        predictions: int[N], of a model.
        labels: int[N].

    Returns:
        For each pair with a mistake: both labels, the number of texts of the first that are predicted as the second,
        and the number of the reverse.
    """
    wrong = Counter(
        (int(label), int(given)) for label, given in zip(labels, predictions, strict=True) if label != given
    )
    pairs = {(min(pair), max(pair)) for pair in wrong}
    found = [(a, b, wrong[a, b], wrong[b, a]) for a, b in pairs]
    return sorted(found, key=lambda each: (-each[2] - each[3], each[:2]))


def near_duplicates(splits: Mapping[str, Sequence[TextOrPair]]) -> list[NearDuplicate]:
    """Return the texts of later splits that almost equal a text of an earlier split; equal texts are not included.

    Texts are compared as sets of words, or of character trigrams if they have fewer than three words. Only texts that
    share one of their rarest words can reach the similarity, so few pairs are compared (prefix filtering: Chaudhuri,
    Ganti and Kaushik, "A Primitive Operator for Similarity Joins in Data Cleaning", ICDE 2006).

    Args:
        splits: Texts by split, the training split first.

    Returns:
        For each such text the most similar one, in the order of the splits.
    """
    sets = {name: [_shingles(text) for text in texts] for name, texts in splits.items()}
    frequency = Counter(each for found in sets.values() for words in found for each in words)
    index: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    result: list[NearDuplicate] = []
    for name, found in sets.items():
        prefixes = [_prefix(words, frequency) for words in found]
        for row, words in enumerate(found):
            best = _most_similar(words, prefixes[row], index, sets)
            if best is not None and best[0] < 1.0:
                result.append(NearDuplicate(name, row, best[1], best[2], best[0]))
        for row, prefix in enumerate(prefixes):
            for each in prefix:
                if len(index[each]) < _MOST_SHARED:
                    index[each].append((name, row))
    return result


def _most_similar(
    words: frozenset[str],
    prefix: list[str],
    index: Mapping[str, list[tuple[str, int]]],
    sets: Mapping[str, list[frozenset[str]]],
) -> tuple[float, str, int] | None:
    best: tuple[float, str, int] | None = None
    for place in dict.fromkeys(place for each in prefix for place in index.get(each, ())):
        other = sets[place[0]][place[1]]
        similarity = len(words & other) / len(words | other)
        if similarity >= MIN_SIMILARITY and (best is None or similarity > best[0]):
            best = (similarity, *place)
    return best


def _prefix(words: frozenset[str], frequency: Mapping[str, int]) -> list[str]:
    """Return the rarest words, of which every near-duplicate shares at least one."""
    length = len(words) - math.ceil(MIN_SIMILARITY * len(words)) + 1
    return sorted(words, key=lambda each: (frequency[each], each))[:length]


def _shingles(text: TextOrPair) -> frozenset[str]:
    """Return the words of a text; those of the second text of a pair are distinct from those of the first."""
    first, *second = (_words(part) for part in parts_of(text))
    return frozenset([*first, *(f"\n{word}" for words in second for word in words)])


def _words(text: str) -> list[str]:
    words = _WORD.findall(text.casefold())
    return words if len(words) >= 3 else [*_trigrams(" ".join(words))]


def _trigrams(text: str) -> Iterator[str]:
    padded = f" {text} "
    return (padded[i : i + 3] for i in range(max(1, len(padded) - 2)))
