"""SentencePiece's unigram model, as in XLM-RoBERTa, CamemBERT, ALBERT and DeBERTa: the split of the highest score."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

from .base import PIECE_MODELS, PieceModel
from .fallback import is_byte


@PIECE_MODELS.register
class Unigram(PieceModel):
    """Pieces with scores; a text is split so that their sum is largest.

    The best split of a text is also the best one in a smaller vocabulary that contains its pieces.
    """

    type: ClassVar[str] = "Unigram"

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each piece: its place in the list."""
        return {piece: number for number, (piece, _) in enumerate(self.model["vocab"])}

    def in_word(self, piece: str) -> list[str]:
        """Return the characters of a piece; the piece of a byte counts as one character."""
        return [piece] if is_byte(piece, self.model) else list(piece)

    def needed(self) -> set[int]:
        """Return the ids that every model needs, and a piece of the lowest score, which sets that of unknown ones."""
        scores = [score for _, score in self.model["vocab"]]
        unknown = self.model.get("unk_id")
        found = super().needed() | (set() if unknown is None else {unknown})
        lowest = min(scores, default=0.0)
        kept = {
            number for number, (piece, _) in enumerate(self.model["vocab"]) if piece in self.special
        } | found
        if scores and lowest < min((scores[number] for number in kept), default=float("inf")):
            found.add(scores.index(lowest))
        return found

    def with_new_ids(self, new_id: Mapping[int, int]) -> dict[str, Any]:
        """Return the model with the pieces that have a new id, with their scores."""
        unknown = self.model.get("unk_id")
        kept = [entry for number, entry in enumerate(self.model["vocab"]) if number in new_id]
        return {**self.model, "vocab": kept, "unk_id": None if unknown is None else new_id[unknown]}

    def spell(self, tokenizer: Any, piece: str) -> list[int]:
        """Split a piece into the pieces with the largest sum of scores."""
        if piece in self.ids:
            return [self.ids[piece]]
        return [token.id for token in tokenizer.backend_tokenizer.model.tokenize(piece)]
