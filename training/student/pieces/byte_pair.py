"""Byte-pair encoding, as in RoBERTa (over bytes) and ModernBERT: pairs are merged in the order of a list."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

from .base import PIECE_MODELS, PieceModel
from .fallback import is_byte


@PIECE_MODELS.register
class BytePair(PieceModel):
    """Pieces that are merged from shorter ones.

    A text has the same pieces in a smaller vocabulary if that contains them and the pieces merged on the way to each:
    no other merges happened within their characters.
    """

    type: ClassVar[str] = "BPE"

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each piece."""
        return self.model["vocab"]

    @cached_property
    def ranks(self) -> dict[tuple[str, str], int]:
        """The place of each merge in the list."""
        return {_pair(merge): rank for rank, merge in enumerate(self.model["merges"])}

    def why_not(self) -> str | None:
        """Return that pieces carry a prefix or suffix, if they do; no tokenizer of a supported family needs it."""
        for name in ("continuing_subword_prefix", "end_of_word_suffix"):
            if self.model.get(name):
                return f"has a {name}"
        return None

    def in_word(self, piece: str) -> list[str]:
        """Return the characters of a piece; the piece of a byte counts as one character."""
        return [piece] if is_byte(piece, self.model) else list(piece)

    def parts(self, piece: int) -> set[int]:
        """Return the ids of a piece and of those that are merged on the way to it."""
        content = self._names.get(piece, "")
        symbols, found = self.in_word(content), {piece}
        while len(symbols) > 1:
            pairs = list(pairwise(symbols))
            best = min(range(len(pairs)), key=lambda at: self.ranks.get(pairs[at], len(self.ranks)))
            if pairs[best] not in self.ranks:
                return {piece}  # not merged, but looked up as a whole (ignore_merges)
            symbols[best : best + 2] = ["".join(pairs[best])]
            found.add(self.ids[symbols[best]])
        return found

    def with_new_ids(self, new_id: Mapping[int, int]) -> dict[str, Any]:
        """Return the model with the pieces that have a new id, and the merges among them."""
        kept = {piece: new_id[old] for piece, old in self.ids.items() if old in new_id}
        merges = [
            merge
            for merge in self.model["merges"]
            if all(piece in kept for piece in (*_pair(merge), "".join(_pair(merge))))
        ]
        return {**self.model, "vocab": kept, "merges": merges}

    def spell(self, tokenizer: Any, piece: str) -> list[int]:
        """Merge the characters of a piece as the tokenizer does."""
        if piece in self.ids:
            return [self.ids[piece]]
        return [token.id for token in tokenizer.backend_tokenizer.model.tokenize(piece)]

    @cached_property
    def _names(self) -> dict[int, str]:
        return {number: piece for piece, number in self.ids.items()}


def _pair(merge: str | list[str]) -> tuple[str, str]:
    first, second = merge.split(" ", 1) if isinstance(merge, str) else merge
    return first, second
