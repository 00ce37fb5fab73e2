"""The words of a tokenized text, each of which has one tag: the piece that begins each word, and its characters.

Training, measurement and the torch-free runtime all find words here, so that a model is applied to the same words that
it was trained on. The module needs NumPy alone. Shapes: L pieces, W words.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

_BY_CHARACTER = (
    *(range(0x0E00, 0x0F00), range(0x1000, 0x10A0), range(0x1780, 0x1800)),  # Thai and Lao; Burmese; Khmer
    *(range(0x1950, 0x19E0), range(0x1A20, 0x1AB0)),  # Tai Le and New Tai Lue; Tai Tham
    range(0x2E80, 0x110000),  # Chinese characters, Kana, Hangul and all that follow
)
"""Scripts whose characters are words of their own. All but Hangul are written without blanks between words; the first
lines are those whose line breaks need a dictionary (Unicode Standard Annex 14, class SA)."""


class Words(NamedTuple):
    """The words of a text.

    Attributes:
        pieces: int64[W]; the position of each word's first piece among all pieces of the text.
        spans: int64[W, 2]; the first character of each word, and the one after its last.
    """

    pieces: np.ndarray
    spans: np.ndarray


def find_words(text: str, offsets: Sequence[tuple[int, int]], word_ids: Sequence[int | None]) -> Words:
    """Join the pieces of a text into words.

    A piece continues a word if it begins between two letters, marks or digits: punctuation, and the characters of
    scripts without blanks with their marks, are words of their own, whatever the tokenizer.

    Args:
        text: The text.
        offsets: Start and end of each piece in the text.
        word_ids: As ``tokenizers.Encoding.word_ids``: None for a special token.
    """
    pieces: list[int] = []
    spans: list[list[int]] = []
    for number, ((start, end), word) in enumerate(zip(offsets, word_ids, strict=True)):
        while start < end and text[start].isspace():  # some tokenizers count the blank before a word
            start += 1
        if word is None or start >= end:
            continue
        if spans and _continues(text, spans[-1][1], start):
            spans[-1][1] = max(spans[-1][1], end)
        else:
            pieces.append(number)
            spans.append([start, end])
    return Words(np.array(pieces, dtype=np.int64), np.array(spans, dtype=np.int64).reshape(-1, 2))


def words_of(text: str) -> Words:
    """Return the words of a text without a tokenizer, as if each character were a piece."""
    return find_words(text, [(place, place + 1) for place in range(len(text))], [0] * len(text))


def _continues(text: str, end: int, start: int) -> bool:
    """Return whether a piece from ``start`` continues the word that reaches to ``end``."""
    # The pieces of one character of several bytes overlap.
    if start != end:
        return start < end
    return _is_mark(text[start]) or (_is_inside(text[end - 1]) and _is_inside(text[start]))


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


def _is_inside(character: str) -> bool:
    code = ord(character)
    is_alone = code >= _BY_CHARACTER[0].start and any(code in each for each in _BY_CHARACTER)
    return not is_alone and unicodedata.category(character)[0] in "LMN"


def tags_of_words(words: Words, entities: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the tag of each word of a text, int64[W], numbered as ``entities.tag_names`` does.

    An entity's words are those that share a character with it; a word of two entities has the tag of the earlier one.

    Args:
        words: The text's words.
        entities: Start, end and number of the type of each entity, in any order; entities do not overlap.
    """
    return _tagged(words, entities)[0]


def hidden_entities(text: str, entities: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """Return the entities of a text that no tag marks, since each of their words is one of an earlier entity.

    Args:
        text: The text.
        entities: Start, end and number of the type of each entity, in any order; entities do not overlap.
    """
    ordered = sorted(map(tuple, entities))
    gaps = (text[before[1] : after[0]] for before, after in pairwise(ordered))
    # White space between all of them: no two share a word, and the words need not be found.
    if all(any(map(str.isspace, gap)) for gap in gaps):
        return []
    return _tagged(words_of(text), entities)[1]


def _tagged(words: Words, entities: Sequence[Sequence[int]]) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Return the tag of each word, int64[W], and the entities whose words all have the tag of an earlier one."""
    tags, hidden = np.zeros(len(words.pieces), dtype=np.int64), []
    for start, end, kind in sorted((start, end, kind) for start, end, kind in entities):
        first, last = (
            np.searchsorted(words.spans[:, 1], start, "right"),
            np.searchsorted(words.spans[:, 0], end),
        )
        inside = np.arange(first, last)
        free = inside[tags[inside] == 0]
        if len(inside) and not len(free):
            hidden.append((start, end, kind))
        tags[free] = 2 * kind + 2
        tags[free[:1]] = 2 * kind + 1
    return tags, hidden
