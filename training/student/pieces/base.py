"""The base class of piece models, which determine what a smaller vocabulary needs, and their registry."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

from ....errors import ModelError
from ...registry import Registry


class PieceModel(ABC):
    """The model of a tokenizer, which splits words into pieces of a vocabulary.

    Args:
        content: The tokenizer, as in its ``tokenizer.json``.

    Attributes:
        type: The model's type in that file.
    """

    type: ClassVar[str]

    def __init__(self, content: dict[str, Any]) -> None:
        self.model: dict[str, Any] = content["model"]
        self.special = {token["content"] for token in content["added_tokens"]}

    @cached_property
    @abstractmethod
    def ids(self) -> dict[str, int]:
        """The id of each piece of the model."""

    @abstractmethod
    def in_word(self, piece: str) -> list[str]:
        """Split a piece into pieces of one character each."""

    @abstractmethod
    def with_new_ids(self, new_id: Mapping[int, int]) -> dict[str, Any]:
        """Return the model with only the pieces that have a new id, as in ``tokenizer.json``.

        Args:
            new_id: From old ids, ascending, to 0, 1, …
        """

    @abstractmethod
    def spell(self, tokenizer: Any, piece: str) -> list[int]:
        """Split a piece of another vocabulary into the ids of this one's pieces.

        Args:
            tokenizer: The tokenizer of transformers whose model this is.
            piece: The piece, as that vocabulary has it.
        """

    def why_not(self) -> str | None:
        """Return why the vocabulary cannot be trimmed, a clause; None if it can be."""
        return None

    def parts(self, piece: int) -> set[int]:
        """Return the ids that a vocabulary needs so that a piece occurs in texts as in the whole vocabulary."""
        return {piece}

    def needed(self) -> set[int]:
        """Return the ids without which some text could no longer be spelled, or would be spelled differently.

        They are those of single characters, and of pieces that contain a character without a piece of its own.
        """
        return {number for piece, number in self._pieces() if self._is_needed(piece)}

    def _pieces(self) -> Iterator[tuple[str, int]]:
        for piece, number in self.ids.items():
            if piece and piece not in self.special:
                yield piece, number

    def _is_needed(self, piece: str) -> bool:
        characters = self.in_word(piece)
        return len(characters) == 1 or not all(each in self.ids for each in characters)


PIECE_MODELS: Registry[type[PieceModel]] = Registry("type")
"""Registered piece models by type; importing the package registers them."""


def piece_model(tokenizer: Any) -> PieceModel:
    """Return the piece model of a tokenizer.

    Args:
        tokenizer: A fast tokenizer of transformers.

    Raises:
        ModelError: There is none for its type, or its vocabulary cannot be trimmed.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = content["model"].get("type")
    if kind not in PIECE_MODELS:
        raise ModelError(
            f"student.vocabulary: the tokenizer's model is {kind}; vocabularies of {', '.join(PIECE_MODELS.names)} can "
            f"be trimmed; remove the section, or set others to nearest"
        )
    found = PIECE_MODELS[kind](content)
    if (reason := found.why_not()) is not None:
        raise ModelError(
            f"student.vocabulary: the tokenizer's model is {kind} and {reason}; remove the section, or set others to "
            f"nearest"
        )
    return found
