"""All baselines, one file each; importing this package registers them without loading their libraries."""

from __future__ import annotations

from . import fasttext_classifier, model2vec_classifier, tfidf_svm
from .base import BASELINES, Baseline

__all__ = ["BASELINES", "Baseline", "fasttext_classifier", "model2vec_classifier", "tfidf_svm"]
