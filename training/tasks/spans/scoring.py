"""F1 and exact match of answers, after the normalization of SQuAD, in NumPy alone.

Answers are compared as Rajpurkar et al. do ("SQuAD: 100,000+ Questions for Machine Comprehension of Text", 2016,
section 6.1; no answer as in "Know What You Don't Know", 2018): in lower case, without punctuation and articles, as
words. An answer is a row of numbers of its words, so that models are compared without their texts. Shapes: N
questions, A right answers of each, W words.
"""

from __future__ import annotations

import re
import string
import zlib
from collections.abc import Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NO_WORD, _NO_ANSWER_THERE = 0, -1


def normalised_words(answer: str) -> list[str]:
    """Return the words of an answer in lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", answer.lower().translate(_NO_PUNCTUATION)).split()


def words_of_answers(answers: Sequence[str]) -> np.ndarray:
    """Return a number for each word of N answers, int64[N, W], padded with 0; equal words have equal numbers."""
    rows = [[_number(word) for word in normalised_words(answer)] for answer in answers]
    found = np.full((len(rows), max([1, *map(len, rows)])), _NO_WORD, dtype=np.int64)
    for row, words in zip(found, rows, strict=True):
        row[: len(words)] = words
    return found


def words_of_labels(labels: Sequence[Sequence[str]]) -> np.ndarray:
    """Return the words of the right answers of N questions, int64[N, A, W], padded with 0, and with -1 behind the last.

    Equal answers count once. Answers without words, such as ``A``, are dropped if the question has others.
    """
    rows = []
    for own in labels:
        distinct = dict.fromkeys(" ".join(normalised_words(answer)) for answer in own)
        rows.append([answer for answer in distinct if answer] or list(distinct))
    flat = words_of_answers([answer for own in rows for answer in own])
    found = np.full((len(rows), max([1, *map(len, rows)]), flat.shape[1]), _NO_ANSWER_THERE, dtype=np.int64)
    places = iter(flat)
    for row, own in enumerate(rows):
        for place in range(len(own)):
            found[row, place] = next(places)
    return found


def is_unanswerable(labels: np.ndarray) -> np.ndarray:
    """Return whether each of N questions has no answer, bool[N], from int64[N, A, W]."""
    return labels[:, 0, 0] == _NO_ANSWER_THERE


def scores(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return F1 and exact match of each question, float64[N, 2]: each the best over its right answers.

    The right answer of an unanswerable question is the empty one.

    Args:
        predictions: int64[N, W], the words of the predicted answers; or labels, whose first answers are then those.
        labels: int64[N, A, W'], the words of the right answers.

    Raises:
        ValueError: The numbers of predictions and labels differ.
    """
    if len(predictions) != len(labels):
        raise ValueError(
            f"{len(predictions)} predictions for {len(labels)} labels; the numbers must be equal"
        )
    if predictions.ndim == 3:
        predictions = _words(predictions[:, 0])
    best = _scores(predictions, _words(labels[:, 0]))
    for place in range(1, labels.shape[1]):
        own = labels[:, place]
        known = own[:, 0] != _NO_ANSWER_THERE
        best[known] = np.maximum(best[known], _scores(predictions[known], own[known]))
    return best


def are_equal(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return whether rows of int64[N, W] and int64[N, W'] have the same words in the same order, bool[N]."""
    width = max(some.shape[1], others.shape[1])
    first, second = (np.pad(each, ((0, 0), (0, width - each.shape[1]))) for each in (some, others))
    return (first == second).all(axis=1)


def _words(answers: np.ndarray) -> np.ndarray:
    """Return the words of one answer of each question, none where it has no answer."""
    return np.where(answers == _NO_ANSWER_THERE, _NO_WORD, answers)


def _scores(predictions: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Return F1 and exact match against one answer of each question."""
    is_word = predictions != _NO_WORD
    # How often the answer has each predicted word, and how often the prediction has it before.
    in_answer = (predictions[:, :, None] == answers[:, None, :]).sum(axis=2)
    same = predictions[:, :, None] == predictions[:, None, :]
    before = np.tril(same, -1).sum(axis=2)
    num_common = (is_word & (before < in_answer)).sum(axis=1)
    lengths = is_word.sum(axis=1) + (answers != _NO_WORD).sum(axis=1)
    exact = are_equal(predictions, answers)
    f1 = np.divide(2 * num_common, lengths, out=exact.astype(np.float64), where=lengths > 0)
    return np.stack([f1, exact], axis=1)


def _number(word: str) -> int:
    return max(1, zlib.crc32(word.encode("utf-8", "surrogatepass")))
