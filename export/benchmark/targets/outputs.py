"""Compute, store and read a model's outputs for the texts of a measurement, their words or their windows."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ....errors import InputError
from ....training.ragged import Ragged
from ....training.tasks.spans.decoding import SpanLogits
from ....training.tasks.words import Words, find_words, tags_of_words

if TYPE_CHECKING:
    from .base import Opened

SPLITS = ("validation", "test")


@dataclass(frozen=True)
class WordOutputs:
    """Logits of the words of N texts; a word has the logits of its first token.

    Attributes:
        logits: Rows of float32[W, C].
        spans: Rows of int64[W, 2]: first character of each word, and the one after its last.
    """

    logits: Ragged
    spans: Ragged

    def __len__(self) -> int:
        return len(self.logits)

    def with_columns(self, columns: Sequence[int]) -> WordOutputs:
        """Return the outputs with only these columns, in this order."""
        return WordOutputs(self.logits.like(self.logits.values[:, columns]), self.spans)

    def labels(self, entities: Sequence[Sequence[Sequence[int]]]) -> np.ndarray:
        """Return the tag of each word, int64[total], from the entities of each text as the data's column holds them."""
        words = [Words(np.arange(len(row)), row) for row in self.spans]
        return np.concatenate([tags_of_words(*each) for each in zip(words, entities, strict=True)])

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Return the arrays that ``of_arrays`` reads, under names that begin with ``name``."""
        return {
            name: self.logits.values,
            f"{name}_offsets": self.logits.offsets,
            f"{name}_spans": self.spans.values,
        }

    @classmethod
    def of_arrays(cls, stored: Mapping[str, Any], name: str) -> WordOutputs:
        """Read outputs; raises ``KeyError`` where an array is missing, ``ValueError`` where they do not fit."""
        logits, offsets, spans = (stored[key] for key in (name, f"{name}_offsets", f"{name}_spans"))
        if logits.ndim != 2 or spans.shape != (len(logits), 2) or offsets[-1] != len(logits):
            raise ValueError(f"{len(logits)} logits for {len(spans)} words")
        return cls(Ragged(logits, offsets), Ragged(spans, offsets))


def outputs_of(opened: Opened, texts: Sequence[Any]) -> Any:
    """Return a model's outputs for N texts: logits [N, C], ``WordOutputs`` of words, or ``SpanLogits`` of questions."""
    logits = opened.logits(texts)
    if opened.windows is not None:
        assert isinstance(logits, Ragged)
        return SpanLogits.of_windows(opened.windows(texts), logits)
    if opened.tokens is None:
        return logits
    words = [find_words(*each) for each in opened.tokens(texts)]
    rows = [row[each.pieces] for row, each in zip(logits, words, strict=True)]
    num_outputs = len(opened.labels)
    return WordOutputs(
        Ragged.of(rows, np.float32, (num_outputs,)), Ragged.of([each.spans for each in words], np.int64, (2,))
    )


@dataclass(frozen=True)
class ScoredModel:
    """A model's logits on both splits, by which it is judged.

    Attributes:
        labels: Names of its C labels.
        logits: Split (``validation``, ``test``) → float32[N, C], ``WordOutputs`` or ``SpanLogits``.
        threshold: Threshold that is shipped with it: for out-of-scope texts, or for each of several labels.
        temperature: Temperature that is shipped with it.
    """

    labels: list[str]
    logits: Mapping[str, Any]
    threshold: Any = None
    temperature: float | None = None

    def save(self, path: Path) -> None:
        """Write labels and logits, which hold no texts, as an uncompressed NumPy archive."""
        arrays: dict[str, np.ndarray] = {}
        for split in SPLITS:
            own = self.logits[split]
            arrays |= own.arrays(split) if isinstance(own, WordOutputs | SpanLogits) else {split: own}
        named: Any = {"labels": np.array(self.labels), **arrays}
        np.savez(path, **named)

    @classmethod
    def load(cls, path: Path, threshold: Any, temperature: float | None) -> ScoredModel:
        """Read what ``save`` has written, under another threshold.

        Raises:
            InputError: The file cannot be read.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                logits = {split: _read(stored, split) for split in SPLITS}
                return cls([str(label) for label in stored["labels"]], logits, threshold, temperature)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path}: not the logits of a measurement ({error}); repeat the benchmark"
            ) from None


def _read(stored: Mapping[str, Any], split: str) -> Any:
    """Return the outputs of a split, as the class whose arrays are stored."""
    kinds = {f"{split}_questions": SpanLogits, f"{split}_spans": WordOutputs}
    kind = next((kind for name, kind in kinds.items() if name in stored), None)
    return stored[split] if kind is None else kind.of_arrays(stored, split)
