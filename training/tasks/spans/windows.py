"""Windows of a question and its context, each of which a model reads at once; together they cover the whole context.

Training, labelling, evaluation and the torch-free runtime all make windows here, so that a model is applied to the same
windows that it was trained on. The module needs NumPy and ``tokenizers`` alone. Shapes: L tokens of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ....texts import all_parts

if TYPE_CHECKING:
    import tokenizers

NO_CONTEXT = -1
"""Place of a token outside the context: of the question, or added by the tokenizer."""
_QUESTION_DIVISOR = 2  # the question is cut to the room divided by this
_OVERLAP_DIVISOR = 3  # neighbouring windows share the context's room divided by this


@dataclass(frozen=True)
class Window:
    """The tokens of a question and of a part of its context, special ones included.

    Attributes:
        ids: Token ids.
        type_ids: Type of each token, by which some models tell question and context apart.
        spans: int32[L, 2]; the first character of each token in the whole context, and the one after its last;
            ``NO_CONTEXT`` twice for a token outside it.
        question: Number of the question.
    """

    ids: list[int]
    type_ids: list[int]
    spans: np.ndarray
    question: int

    def __len__(self) -> int:
        return len(self.ids)


class _Template(NamedTuple):
    """What a tokenizer adds before, between and after two texts, as pairs of id and type, and the texts' own types."""

    before: list[tuple[int, int]]
    between: list[tuple[int, int]]
    after: list[tuple[int, int]]
    types: tuple[int, int]

    @property
    def num_added(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


class Windowing:
    """Divide pairs of a question and a context into windows of at most ``max_length`` tokens.

    A question longer than half of the room beside the added tokens is cut at its end. Consecutive windows overlap by a
    third of the context's room, so that an answer of up to that many tokens is complete in one of them. Calls are
    thread-safe as long as the tokenizer is not changed.

    Args:
        tokenizer: A tokenizer that neither truncates nor pads.
        max_length: Most tokens of a window.
        num_tokens: Tokens of a question, its context and what is added to them, to which the context is cut; None: it
            is not cut.

    Raises:
        ValueError: ``max_length`` leaves no room beside the added tokens.
    """

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, max_length: int, num_tokens: int | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._template = _template(tokenizer)
        self._room = min(max_length, num_tokens or max_length) - self._template.num_added
        self._most = None if num_tokens is None else num_tokens - self._template.num_added
        if self._room < 1:
            raise ValueError(
                f"max_length is {max_length}, but the tokenizer adds {self._template.num_added} tokens to every pair"
            )

    def cut_to(self, num_tokens: int) -> Windowing:
        """Return the same windowing, with contexts cut so that a question with its context has that many tokens."""
        return Windowing(self._tokenizer, self._max_length, num_tokens)

    @classmethod
    def of_transformers(cls, tokenizer: Any, max_length: int) -> Windowing:
        """Return the windowing of a fast tokenizer of transformers, whose truncation and padding are switched off."""
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return cls(backend, max_length)

    def windows(self, pairs: Sequence[tuple[str, str]]) -> list[Window]:
        """Return the windows of all pairs, one or more of each, in their order; raises what ``tokenizers`` raises."""
        distinct = list(dict.fromkeys(all_parts(pairs)))
        if len(pairs) == 1:  # threads would take longer than they save
            found = [self._tokenizer.encode(text, add_special_tokens=False) for text in distinct]
        else:
            found = self._tokenizer.encode_batch(distinct, add_special_tokens=False)
        ids = {text: each.ids for text, each in zip(distinct, found, strict=True)}
        contexts = {context for _, context in pairs}
        spans = {
            text: np.array(each.offsets, dtype=np.int32).reshape(-1, 2)
            for text, each in zip(distinct, found, strict=True)
            if text in contexts
        }
        return [
            window
            for number, (question, context) in enumerate(pairs)
            for window in self._of_one(ids[question], ids[context], spans[context], number)
        ]

    def _of_one(
        self, question: list[int], context: list[int], spans: np.ndarray, number: int
    ) -> list[Window]:
        template = self._template
        asked = question[: self._room // _QUESTION_DIVISOR]
        context = context if self._most is None else context[: self._most - len(asked)]
        room = self._room - len(asked)
        step = room - room // _OVERLAP_DIVISOR
        head = [*template.before, *((each, template.types[0]) for each in asked), *template.between]
        windows = []
        for start in range(0, max(1, len(context) - room + step), step):
            part = context[start : start + room]
            tokens = [*head, *((each, template.types[1]) for each in part), *template.after]
            places = np.full((len(tokens), 2), NO_CONTEXT, dtype=np.int32)
            places[len(head) : len(head) + len(part)] = spans[start : start + len(part)]
            windows.append(Window([each for each, _ in tokens], [kind for _, kind in tokens], places, number))
        return windows


def _template(tokenizer: tokenizers.Tokenizer) -> _Template:
    encoding = tokenizer.encode("a", "a")
    parts: list[list[tuple[int, int]]] = [[], [], []]
    types, seen = [0, 0], 0
    for each, kind, text in zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True):
        if text is None:
            parts[seen].append((each, kind))
        else:
            types[text], seen = kind, text + 1
    return _Template(parts[0], parts[1], parts[2], (types[0], types[1]))
