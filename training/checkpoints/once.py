"""A cache of checkpoints that several checks read: each is found, and its tokenizer loaded, only once."""

from __future__ import annotations

from typing import Any

from .load import load_tokenizer, resolve_checkpoint


class Checkpoints:
    """Find checkpoints and load their tokenizers, each only once.

    Finding an ``offline:`` checkpoint hashes its weights, and loading a tokenizer builds its vocabulary.
    """

    def __init__(self) -> None:
        self._directories: dict[tuple[str, str | None], str] = {}
        self._tokenizers: dict[str, Any] = {}

    def directory(self, name: str, sha256: str | None = None) -> str:
        """Return a checkpoint's directory, or its hub id, as ``resolve_checkpoint`` does.

        Raises:
            ModelError: There is no such checkpoint, or its weights' hash differs.
        """
        key = (name, sha256)
        if key not in self._directories:
            self._directories[key] = resolve_checkpoint(name, sha256)
        return self._directories[key]

    def tokenizer(self, name: str) -> Any:
        """Return the tokenizer of a checkpoint; its truncation and padding may be set from an earlier use.

        Raises:
            ModelError: It cannot be loaded.
        """
        directory = self.directory(name)
        if directory not in self._tokenizers:
            self._tokenizers[directory] = load_tokenizer(directory)
        return self._tokenizers[directory]
