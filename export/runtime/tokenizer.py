"""Load and run a classifier's tokenizer, and raise its failures as this package's errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import tokenizers

from ...errors import ArtifactError, InputError
from ...texts import TextOrPair, all_parts
from ...training.tasks.spans.windows import Window, Windowing
from .session.graph import cause

MAX_TOKENIZER_BYTES = 2**29
# Truncation to max_length happens only after the whole text is tokenized, which takes a second per megabyte.
_LONG_TEXT = 2**16
_CHARACTERS_PER_TOKEN = 32


class Tokenizer:
    """A ``tokenizers.Tokenizer`` that truncates to ``max_length`` tokens and raises only this package's errors.

    Texts are cut at the side that the file's own truncation names, by default at the end.

    Args:
        content: Content of ``tokenizer.json``.
        max_length: Maximum number of tokens of a text.
        pad_token_id: Id of the padding token.
        path: The file, for messages.
        takes_pairs: Whether it tokenizes pairs of texts, whose longer text is truncated first.
        with_offsets: Whether ``encode`` gives the place of each token in its text, which takes longer.
        with_windows: Whether pairs are questions with contexts, of which it makes ``windows``.

    Attributes:
        max_length: Maximum number of tokens of a text.
        name: Name of what tokenizes single texts: ``tokenizers``, or a fast tokenizer.
        why: Why no fast tokenizer, or not the first one, is used; None where none was requested or the first one is.

    Raises:
        ArtifactError: The content is not a tokenizer, has no token of that id, or its special tokens leave no room
            within ``max_length``.
    """

    def __init__(
        self,
        content: bytes,
        max_length: int,
        pad_token_id: int,
        path: Path,
        *,
        takes_pairs: bool = False,
        with_offsets: bool = False,
        with_windows: bool = False,
    ):
        self.path = path
        self.with_offsets = with_offsets
        self.takes_pairs = takes_pairs
        self.max_length = max_length
        self.name, self.why = "tokenizers", None
        self._fast: Callable[[str], list[int]] | None = None
        self._long = max(_LONG_TEXT, _CHARACTERS_PER_TOKEN * max_length)
        try:
            self.tokenizer = tokenizers.Tokenizer.from_buffer(content)
            self.tokenizer.no_padding()
            side = (self.tokenizer.truncation or {}).get("direction", "right")
            self._keeps_end = side == "left"
            self.tokenizer.enable_truncation(max_length, direction=side)
            added = self.tokenizer.num_special_tokens_to_add(takes_pairs)
            whole = tokenizers.Tokenizer.from_buffer(content) if with_windows else None
            if whole is not None:
                whole.no_padding()
                whole.no_truncation()
        except BaseException as error:
            if not is_fault(error):
                raise
            raise ArtifactError(
                f"{path}: not a tokenizer ({cause(error)}); pull the artifact again"
            ) from error
        if self.tokenizer.id_to_token(pad_token_id) is None:
            raise ArtifactError(
                f"{path} has no token with id {pad_token_id}, the pad_token_id of distiltune.json; pull the "
                "artifact again"
            )
        if added >= max_length:
            raise ArtifactError(
                f"{path} adds {added} tokens to every {'pair' if takes_pairs else 'text'}, but max_length is "
                f"{max_length}; pull the artifact again"
            )
        self._windowing = None if whole is None else Windowing(whole, max_length)

    def cut_to(self, num_tokens: int) -> Tokenizer:
        """Return the same tokenizer, with texts truncated to another number of tokens."""
        other = copy(self)
        other.tokenizer = tokenizers.Tokenizer.from_str(self.tokenizer.to_str())
        side = "left" if self._keeps_end else "right"
        other.tokenizer.enable_truncation(num_tokens, direction=side)
        other.max_length = num_tokens
        other._long = max(_LONG_TEXT, _CHARACTERS_PER_TOKEN * num_tokens)
        other._windowing = None if self._windowing is None else self._windowing.cut_to(num_tokens)
        return other

    def last_id(self) -> int | None:
        """Return the largest token id; None where the ids are not contiguous from 0."""
        last = self.tokenizer.get_vocab_size(with_added_tokens=True) - 1
        return last if last >= 0 and self.tokenizer.id_to_token(last) is not None else None

    def ids(self) -> list[int]:
        """Return every token id, in ascending order."""
        return sorted(set(self.tokenizer.get_vocab(with_added_tokens=True).values()))

    def template(self) -> list[tuple[int | None, int]]:
        """Return the ids that are added to a text or pair, with their token types; None marks the place of a text."""
        if not self.takes_pairs:
            added: list[tuple[int | None, int]] = [(each, 0) for each in self.encode_one("").ids]
            added.insert((len(added) + 1) // 2, (None, 0))
            return added
        found: list[tuple[int | None, int]] = []
        encoding, before = self.encode_one(("a", "a")), None
        for each, kind, text in zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True):
            if text is None or text != before:
                found.append((each if text is None else None, kind))
            before = text
        return found

    def encode(self, texts: Sequence[TextOrPair]) -> list[tokenizers.Encoding]:
        """Tokenize texts or pairs of texts.

        Raises:
            InputError: A text contains lone surrogates.
            ArtifactError: The tokenizer fails on a text.
        """
        if len(texts) == 1:
            return [self.encode_one(texts[0])]
        try:
            if any(len(part) > self._long for part in all_parts(texts)):
                texts = [self._shortened(text) for text in texts]
            encode = self.tokenizer.encode_batch if self.with_offsets else self.tokenizer.encode_batch_fast
            return encode(texts)
        except BaseException as error:
            if not is_fault(error):
                raise
            raise self._failure(error, texts) from error

    def windows(self, pairs: Sequence[tuple[str, str]]) -> list[Window]:
        """Return the windows of questions with their contexts, which are not truncated; raises like ``encode``."""
        assert self._windowing is not None, "it was opened with_windows"
        try:
            return self._windowing.windows(pairs)
        except BaseException as error:
            if not is_fault(error):
                raise
            raise self._failure(error, pairs) from error

    def use(self, name: str | None, encode: Callable[[str], list[int]] | None, why: str | None) -> None:
        """Use a fast tokenizer with the same ids for single texts; with None, record only why there is none."""
        self.why = why
        if name is not None and encode is not None:
            self.name, self._fast = name, encode

    def ids_of(self, text: str) -> list[int]:
        """Return the ids of one string, by the fast tokenizer where there is one; raises like ``encode``.

        Texts that it fails on, that are truncated, or that are very long are left to ``tokenizers``.
        """
        if self._fast is not None and len(text) <= self._long:
            try:
                ids = self._fast(text)
            except BaseException as error:
                if not is_fault(error):
                    raise
            else:
                if len(ids) < self.max_length:
                    return ids
        return self.encode_one(text).ids

    def library_call(self) -> Callable[[Any], Any]:
        """Return the library's own function that tokenizes one text or pair, to be timed alone."""
        encode = self.tokenizer.encode
        return (lambda pair: encode(*pair)) if self.takes_pairs else self._fast or encode

    def encode_one(self, text: TextOrPair) -> tokenizers.Encoding:
        """Tokenize one text or pair; raises like ``encode``."""
        try:
            if isinstance(text, str):
                return self.tokenizer.encode(text if len(text) <= self._long else self._start_or_end(text))
            first, second = map(self._start_or_end, text)
            return self.tokenizer.encode(first, second)
        except BaseException as error:
            if not is_fault(error):
                raise
            raise self._failure(error, [text]) from error

    def _failure(self, error: BaseException, texts: Sequence[TextOrPair]) -> ArtifactError | InputError:
        for number, text in enumerate(texts):
            if any("\ud800" <= character <= "\udfff" for part in all_parts([text]) for character in part):
                return InputError(
                    f"text {number} is not valid Unicode: {text!r:.60}; remove its lone surrogates"
                )
        return ArtifactError(
            f"{self.path}: it fails on a text ({cause(error)}); remove {texts[0]!r:.60}"
            if len(texts) == 1
            else f"{self.path}: it fails on one of {len(texts)} texts ({cause(error)}); pass them one by one"
        )

    def _shortened(self, text: TextOrPair) -> TextOrPair:
        """Return the part that is kept of a very long text, or of each text of a pair."""
        if isinstance(text, str):
            return self._start_or_end(text)
        return self._start_or_end(text[0]), self._start_or_end(text[1])

    def _start_or_end(self, text: str) -> str:
        """Return the start or end that is kept of a very long text, or the text if it fits in ``max_length``."""
        if len(text) <= self._long or (
            self._keeps_end and self.with_offsets
        ):  # offsets are those in the text
            return text
        kept = text[-self._long :] if self._keeps_end else text[: self._long]
        return kept if self.tokenizer.encode(kept).overflowing else text


def is_fault(error: BaseException) -> bool:
    """Return whether an error is a failure of ``tokenizers``; its panics derive from BaseException, as Ctrl-C does."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"
