"""The base of the student kinds whose vocabulary may be trimmed: the key, and its checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field

from ...tasks import SINGLE_LABEL, Task
from ..size_config import VocabularyConfig
from .base import StudentConfig


class TrimmedStudent(StudentConfig):
    """A student that may keep only some word pieces."""

    vocabulary: VocabularyConfig | None = Field(
        default=None,
        description="Trim the vocabulary and its embeddings before training; no text becomes unknown.",
    )

    @property
    def own_tokenizer(self) -> bool:
        """Whether it has a checkpoint's tokenizer, or one with fewer word pieces than the teacher's."""
        return super().own_tokenizer or self.loses_pieces

    @property
    def loses_pieces(self) -> bool:
        """Whether its tokenizer has fewer word pieces than that of the model it is made from."""
        return self.vocabulary is not None and self.vocabulary.others == "spelled"

    def check_checkpoints(
        self, teacher: str | None, task: Task = SINGLE_LABEL, max_length: int | None = None
    ) -> None:
        """Reject a vocabulary too small to spell every text."""
        from ...checkpoints.load import load_tokenizer, resolve_checkpoint
        from ..vocabulary import check_vocabulary

        own = teacher if self.source is None else resolve_checkpoint(self.source)
        if self.vocabulary is not None and own is not None:
            check_vocabulary(load_tokenizer(own), self.vocabulary)

    def check_new_tokenizer(self, make: Callable[[], Any]) -> None:
        """Reject a vocabulary too small to spell every text in the teacher's word pieces."""
        from ..vocabulary import check_vocabulary

        if self.vocabulary is not None and self.vocabulary.size is not None and self.source is None:
            check_vocabulary(make(), self.vocabulary)
