"""A linear SVM on tf-idf of words, word pairs and characters: the strongest classical baseline on short texts."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from .base import BASELINES, Baseline, TrainingTexts
from .linear import class_columns

_MANY_TEXTS = 50_000  # of more, n-grams that occur in only one text are left out
_MOST_CHARACTERS = 10_000_000  # of all texts; of more, character n-grams would take gigabytes
_MOST_FEATURES = 300_000  # of words and word pairs, and as many of characters; the most frequent ones
_MOST_WEIGHTS = 60_000_000  # features times classes: 480 MB in the 64 bits of the solver
_TOLERANCE = 1e-3
_WORDS = {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"\b\w+\b"}
_CHARACTERS = {"analyzer": "char_wb", "ngram_range": (2, 5)}


@dataclass(frozen=True)
class TfidfSvm:
    """A trained tf-idf SVM.

    Attributes:
        vectorizers: scikit-learn's ``TfidfVectorizer`` of words and, if not left out, of characters.
        weights: For each of them float32[F, C].
        bias: float32[C].
        features: The kinds of its features and their numbers, in words.
    """

    vectorizers: list[Any]
    weights: list[np.ndarray]
    bias: np.ndarray
    features: str

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the distances from the C hyperplanes, float32[N, C]."""
        found = np.tile(self.bias, (len(texts), 1))
        # Each product is of sparse rows and contiguous weights, which scipy multiplies without copying them.
        for vectorizer, weights in zip(self.vectorizers, self.weights, strict=True):
            found += vectorizer.transform(texts) @ weights
        return found

    def save(self, path: Path) -> None:
        """Write vocabularies and weights as a pickle."""
        path.write_bytes(pickle.dumps(self, protocol=5))


def _fit(given: TrainingTexts) -> TfidfSvm:
    from scipy.sparse import hstack
    from sklearn.svm import LinearSVC

    vectorizers, columns, features = [], [], []
    for title, vectorizer in _vectorizers(given):
        try:
            columns.append(vectorizer.fit_transform(given.texts))
        except ValueError as error:  # no text has a word, or no n-gram is left of two texts
            if "vocabulary" not in str(error) and "terms remain" not in str(error):
                raise
            continue
        vectorizers.append(_without_leftovers(vectorizer))
        features.append(f"{columns[-1].shape[1]:,} {title}")
    if not columns:
        raise InputError("no training text has a word or a character to classify by")
    svm = LinearSVC(
        dual="auto",
        tol=_TOLERANCE,
        class_weight="balanced" if given.is_balanced else None,
        random_state=given.seed,
    )
    svm.fit(hstack(columns, format="csr"), given.classes)
    weights, bias = class_columns(svm.coef_, svm.intercept_)
    bounds = np.cumsum([each.shape[1] for each in columns])[:-1]
    parts = [np.ascontiguousarray(each) for each in np.split(weights, bounds)]
    return TfidfSvm(vectorizers, parts, bias, " and ".join(features))


def _vectorizers(given: TrainingTexts) -> list[tuple[str, Any]]:
    """Return each kind of features in words with its vectorizer, bounded for many or long texts and many classes."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    most = min(_MOST_FEATURES, max(1000, _MOST_WEIGHTS // given.num_classes // 2))
    common = {
        "sublinear_tf": True,
        "dtype": np.float32,
        "min_df": 2 if len(given.texts) > _MANY_TEXTS else 1,
        "max_features": most,
    }
    found = [("words and word pairs", TfidfVectorizer(**_WORDS, **common))]
    if sum(map(len, given.texts)) <= _MOST_CHARACTERS:
        found.append(("character 2- to 5-grams", TfidfVectorizer(**_CHARACTERS, **common)))
    return found


def _without_leftovers(vectorizer: Any) -> Any:
    """Remove what a vectorizer needs only in training, if this version of scikit-learn keeps it."""
    vectorizer.__dict__.pop("stop_words_", None)
    return vectorizer


def _load(path: Path) -> TfidfSvm:
    return pickle.loads(path.read_bytes())  # written by this process's parent to its own scratch folder


BASELINES.register(
    Baseline(
        "tfidf-svm",
        "a tf-idf SVM",
        "tf-idf of words, word pairs and character 2- to 5-grams, and a linear SVM (scikit-learn)",
        "scikit-learn",
        "sklearn",
        "pip install scikit-learn",
        _fit,
        _load,
        growth=1.2,  # from 2,000 texts to 15,250 of CLINC150, and to 36,308 of GoEmotions
    )
)
