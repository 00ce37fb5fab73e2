"""fastText's supervised classifier: the mean of learned vectors of words, word pairs and characters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...storage.temporary import temporary_directory
from .base import BASELINES, EXTRA, Baseline, TrainingTexts

_LABEL = "__label__"
_WORD = re.compile(r"\w+|[^\w\s]")
_ARGUMENTS = {
    "dim": 100,
    "epoch": 25,
    "lr": 0.5,
    "wordNgrams": 2,
    "minn": 2,
    "maxn": 5,
    "bucket": 200_000,
    "loss": "softmax",
    "thread": 1,  # with more, training is not deterministic
    "verbose": 0,
}


@dataclass
class FastText:
    """A trained fastText classifier.

    Attributes:
        model: The model of the package.
    """

    model: Any

    @property
    def features(self) -> str:
        """The kinds of its features and their numbers, in words."""
        return f"{len(self.model.get_words()):,} words, and {_ARGUMENTS['bucket']:,} hashed n-grams"

    @cached_property
    def _weights(self) -> np.ndarray:
        """Vectors of the classes in the order of their numbers, float32[D, C]."""
        rows = np.asarray(self.model.get_output_matrix(), dtype=np.float32)
        numbers = [int(each.removeprefix(_LABEL)) for each in self.model.get_labels()]
        return np.ascontiguousarray(rows[np.argsort(numbers)].T)

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the logits before the softmax, float32[N, C]; the package itself gives only probabilities."""
        means = np.stack([self.model.get_sentence_vector(_line(text)) for text in texts])
        return means.astype(np.float32) @ self._weights

    def save(self, path: Path) -> None:
        """Write the model in the package's own format."""
        self.model.save_model(str(path))


def _fit(given: TrainingTexts) -> FastText:
    import fasttext  # pyright: ignore[reportMissingImports]

    with temporary_directory("fasttext") as scratch:
        file = scratch / "train.txt"
        rows: list[int] = (_balanced(given) if given.is_balanced else np.arange(len(given.texts))).tolist()
        lines = (f"{_LABEL}{given.classes[row]} {_line(given.texts[row])}\n" for row in rows)
        with file.open("w", encoding="utf-8") as out:
            out.writelines(lines)
        return FastText(
            fasttext.train_supervised(str(file), label=_LABEL, seed=given.seed % 2**31, **_ARGUMENTS)
        )


def _balanced(given: TrainingTexts) -> np.ndarray:
    """Draw as many rows as there are texts, every class equally often: fastText has no class weights."""
    counts = np.bincount(given.classes)
    weights = 1.0 / counts[given.classes]
    generator = np.random.default_rng(given.seed)
    drawn = generator.choice(len(weights), size=len(weights), p=weights / weights.sum())
    once = np.unique(given.classes, return_index=True)[1]  # so that no class is missing
    return np.concatenate([once, drawn])


def _line(text: str) -> str:
    """Return a text on one line, in lower case, words and punctuation separated, without the prefix of labels."""
    return " ".join(_WORD.findall(text.lower().replace(_LABEL, " ")))


def _load(path: Path) -> FastText:
    import fasttext  # pyright: ignore[reportMissingImports]

    return FastText(fasttext.load_model(str(path)))


BASELINES.register(
    Baseline(
        "fasttext",
        "a fastText classifier",
        f"fastText's supervised classifier ({EXTRA})",
        "fasttext",
        "fasttext",
        EXTRA,
        _fit,
        _load,
    )
)
