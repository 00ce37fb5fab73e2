"""WordPiece, as in BERT: the longest pieces from the left; pieces inside a word begin with a prefix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

from .base import PIECE_MODELS, PieceModel


@PIECE_MODELS.register
class WordPiece(PieceModel):
    """Pieces of a longest-match model."""

    type: ClassVar[str] = "WordPiece"

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each piece."""
        return self.model["vocab"]

    def in_word(self, piece: str) -> list[str]:
        """Return the characters of a piece, with the prefix where they are inside a word."""
        prefix: str = self.model["continuing_subword_prefix"]
        characters = piece.removeprefix(prefix)
        parts = [prefix + character for character in characters]
        if characters == piece:
            parts[0] = characters[0]
        return parts

    def with_new_ids(self, new_id: Mapping[int, int]) -> dict[str, Any]:
        """Return the model with the pieces that have a new id."""
        kept = {piece: new_id[old] for piece, old in self.ids.items() if old in new_id}
        return {**self.model, "vocab": kept}

    def spell(self, tokenizer: Any, piece: str) -> list[int]:
        """Split a piece into the ids of its longest parts from the left."""
        del tokenizer
        prefix: str = self.model["continuing_subword_prefix"]
        if piece in self.ids:
            return [self.ids[piece]]
        rest, begun, found = piece.removeprefix(prefix), piece.startswith(prefix), []
        while rest:
            for end in range(len(rest), 0, -1):
                part = (prefix if begun else "") + rest[:end]
                if part in self.ids:
                    found.append(self.ids[part])
                    rest, begun = rest[end:], True
                    break
            else:
                return [self.ids[self.model["unk_token"]]]
        return found

    def _pieces(self) -> Iterator[tuple[str, int]]:
        for piece, number in super()._pieces():
            is_unused = piece.startswith("[unused") and piece.endswith("]")  # in BERT's vocabularies
            if not is_unused:
                yield piece, number
