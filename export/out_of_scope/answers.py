"""Fit the threshold of no answer and the temperature of a question-answering model, and compute its probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...training.tasks.spans import scoring
from ...training.tasks.spans.decoding import SpanLogits, answers_of, candidates, decode
from ..temperature import LEAST, MOST

_MOST_QUESTIONS = 300  # that the temperature is fitted on, evenly spaced
_STEPS = 17  # temperatures that are compared, then again between the neighbours of the best
_LEAST_PROBABILITY = 1e-6


@dataclass(frozen=True)
class FittedAnswers:
    """Result of the fit on validation questions.

    Attributes:
        threshold: By how much the value of no answer must exceed that of the best span, for the best F1; None where
            every question has an answer.
        temperature: Divisor of the logits that makes the scores most likely, given which answers are right.
    """

    threshold: float | None
    temperature: float


def fit_answers(outputs: SpanLogits, contexts: Sequence[str], labels: np.ndarray) -> FittedAnswers:
    """Fit the threshold and the temperature of a question-answering model.

    Args:
        outputs: Logits of N questions.
        contexts: Their contexts.
        labels: int64[N, A, W], the words of their right answers.
    """
    threshold = None
    if scoring.is_unanswerable(labels).any():
        threshold = _threshold(outputs, contexts, labels)
    right = _scores(contexts, outputs, threshold, labels)[:, 1] > 0
    return FittedAnswers(threshold, _temperature(outputs, threshold, right))


def probabilities(outputs: SpanLogits, threshold: float | None, temperature: float) -> np.ndarray:
    """Return the probability of the answer to each of N questions, float64[N]."""
    found = candidates(outputs, decode(outputs), threshold)
    return np.array([each.probability(temperature) for each in found])


def _scores(
    contexts: Sequence[str], outputs: SpanLogits, threshold: float | None, labels: np.ndarray
) -> np.ndarray:
    """Return F1 and exact match of the answer to each question, float64[N, 2]."""
    return scoring.scores(scoring.words_of_answers(answers_of(contexts, outputs, threshold)), labels)


def _threshold(outputs: SpanLogits, contexts: Sequence[str], labels: np.ndarray) -> float:
    """Return the threshold of the highest mean F1; of several, the one nearest to 0."""
    decoded = decode(outputs)
    gaps = decoded.null - decoded.best
    f1_answered = _scores(contexts, outputs, None, labels)[:, 0]
    f1_unanswered = scoring.scores(scoring.words_of_answers([""] * len(contexts)), labels)[:, 0]
    order = np.argsort(gaps, kind="stable")
    # totals[i]: the sum of F1 if the i questions with the smallest gaps are answered, and the others are not.
    totals = np.concatenate([[0], np.cumsum(f1_answered[order])]) + np.concatenate(
        [np.cumsum(f1_unanswered[order][::-1])[::-1], [0]]
    )
    finite = np.clip(gaps[order], -1e6, 1e6)
    edges = np.concatenate([finite[:1] - 1, (finite[:-1] + finite[1:]) / 2, finite[-1:] + 1])
    # Questions with equal gaps stay together.
    is_edge = np.concatenate([[True], finite[:-1] < finite[1:], [True]])
    best = np.flatnonzero(is_edge & (totals >= totals[is_edge].max() - 1e-9))
    return float(edges[best[np.abs(edges[best]).argmin()]])


def _temperature(outputs: SpanLogits, threshold: float | None, right: np.ndarray) -> float:
    """Return the temperature with the least cross-entropy of the scores against whether answers are right."""
    if not len(right):
        return 1.0
    chosen = np.unique(np.linspace(0, len(right) - 1, min(len(right), _MOST_QUESTIONS)).astype(int))
    some = outputs.select(chosen.tolist())
    possible, is_right = candidates(some, decode(some), threshold), right[chosen]

    def loss(log_temperature: float) -> float:
        temperature = float(np.exp(log_temperature))
        found = np.array([each.probability(temperature) for each in possible])
        found = np.clip(found, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
        return float(-np.log(np.where(is_right, found, 1 - found)).mean())

    low, high, best = np.log(LEAST), np.log(MOST), 0.0
    for _ in range(2):
        steps = np.linspace(low, high, _STEPS)
        best, width = min(steps.tolist(), key=loss), float(steps[1] - steps[0])
        low, high = best - width, best + width
    return float(np.clip(np.exp(best), LEAST, MOST))
