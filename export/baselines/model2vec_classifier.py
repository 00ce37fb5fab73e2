"""A logistic regression on Model2Vec's static embeddings: the mean of fixed vectors of word pieces."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .base import BASELINES, EXTRA, Baseline, TrainingTexts
from .linear import class_columns

_MOST_ITERATIONS = 1000


@dataclass(frozen=True)
class Model2Vec:
    """Static embeddings and a linear classifier.

    Attributes:
        model: The package's ``StaticModel``.
        weights: float32[D, C].
        bias: float32[C].
    """

    model: Any
    weights: np.ndarray
    bias: np.ndarray

    @property
    def features(self) -> str:
        """The kind of its features and their number, in words."""
        return f"{len(self.weights):,} dimensions of the embedding"

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the logits, float32[N, C]."""
        return _embedded(self.model, texts) @ self.weights + self.bias

    def save(self, path: Path) -> None:
        """Write embeddings, tokenizer and classifier as a pickle."""
        path.write_bytes(pickle.dumps(self, protocol=5))


def _fit(given: TrainingTexts) -> Model2Vec:
    from model2vec import StaticModel  # pyright: ignore[reportMissingImports]
    from sklearn.linear_model import LogisticRegression

    assert given.model is not None, "why_not rejects a job without it"
    model = StaticModel.from_pretrained(given.model)
    classifier = LogisticRegression(
        max_iter=_MOST_ITERATIONS,
        class_weight="balanced" if given.is_balanced else None,
        random_state=given.seed,
    )
    classifier.fit(_embedded(model, given.texts), given.classes)
    return Model2Vec(model, *class_columns(classifier.coef_, classifier.intercept_))


def _embedded(model: Any, texts: Sequence[str]) -> np.ndarray:
    """Return the embeddings of whole texts, float32[N, D]; in this process, since a forked tokenizer can deadlock."""
    return np.asarray(model.encode(list(texts), max_length=None, use_multiprocessing=False), dtype=np.float32)


def _load(path: Path) -> Model2Vec:
    return pickle.loads(path.read_bytes())  # written by this process's parent to its own scratch folder


BASELINES.register(
    Baseline(
        "model2vec",
        "a Model2Vec classifier",
        f"a logistic regression on the embeddings of benchmark.model2vec ({EXTRA})",
        "model2vec",
        "model2vec",
        EXTRA,
        _fit,
        _load,
        model_key="benchmark.model2vec",
    )
)
