"""The outputs of a model for the words of texts: computed from those for tokens, stored, and read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ....training.ragged import Ragged
from ....training.tasks.words import find_words

if TYPE_CHECKING:
    from .base import Opened


@dataclass(frozen=True)
class WordOutputs:
    """Logits of the words of N texts, each of which is that of the word's first token.

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

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Return what ``of_arrays`` reads, to be stored under names that begin with ``name``."""
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
    """Return a model's outputs for N texts: logits [N, C], or ``WordOutputs`` where tokens have logits."""
    logits = opened.logits(texts)
    if opened.tokens is None:
        return logits
    words = [find_words(*each) for each in opened.tokens(texts)]
    rows = [row[each.pieces] for row, each in zip(logits, words, strict=True)]
    num_outputs = len(opened.labels)
    return WordOutputs(
        Ragged.of(rows, np.float32, (num_outputs,)), Ragged.of([each.spans for each in words], np.int64, (2,))
    )
