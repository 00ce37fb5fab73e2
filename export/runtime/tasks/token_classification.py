"""Decode the entities of a text from the logits of its pieces: spans of characters with a type and a score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ....training.tasks.words import find_words
from .base import TokenDecoder, Tokens, register


class TokenClassification(TokenDecoder):
    """Decoder whose prediction for a text is a list of ``{"start": int, "end": int, "label": str, "score": float}``.

    Each word has the tag of its first piece, the only one that is trained. Words are then grouped as the pipeline of
    transformers groups pieces (``aggregation_strategy="simple"``): a word continues an entity unless its type differs
    or its tag begins with ``B-``; the score is the mean of the words' largest probabilities. The answers are the
    pipeline's where every word is one piece, and those of its strategy ``first`` where words have several.
    """

    name: ClassVar[str] = "token_classification"

    def num_outputs(self, labels: Sequence[str]) -> int:
        """Return the number of tags."""
        return len(labels)

    def decode_tokens(
        self,
        logits: np.ndarray,
        tokens: Tokens,
        labels: Sequence[str],
        temperature: float = 1.0,
    ) -> list[dict[str, Any]]:
        """Return the entities of a text of logits[L, C], in the order of the text."""
        words = find_words(tokens.text, tokens.offsets, tokens.word_ids)
        tags = self.decode(logits[words.pieces], labels, None, temperature)
        found: list[dict[str, Any]] = []
        entity: dict[str, Any] | None = None
        for (start, end), tag in zip(words.spans.tolist(), tags, strict=True):
            begins, kind = _parsed(tag["label"])
            if kind is None:
                entity = None
            elif entity is not None and entity["label"] == kind and not begins:
                entity["end"] = end
                entity["score"].append(tag["score"])
            else:
                entity = {"start": start, "end": end, "label": kind, "score": [tag["score"]]}
                found.append(entity)
        for each in found:
            each["score"] = float(np.mean(each["score"]))
        return found


def _parsed(tag: str) -> tuple[bool, str | None]:
    """Return whether a tag begins an entity, and its type; None outside of entities."""
    if tag == "O":
        return False, None
    prefix, dash, kind = tag.partition("-")
    return (prefix == "B", kind) if dash and prefix in ("B", "I") else (False, tag)


register(TokenClassification())
