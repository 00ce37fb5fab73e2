"""Texts generated from training texts for the teacher to label: splices, dropped words, masked word pieces.

Every text has its own generator, seeded by seed, kind and number: the same seed gives the same texts, and a smaller
count gives a prefix of a larger one. Texts of the validation and test splits are never generated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from ...texts import TextOrPair, parts_of
from .rows import normalised
from .tokenized import TokenizedSplit, TokenRow, example_id, from_rows

_ATTEMPTS = 20  # to generate a text that does not exist yet
_SPLICED, _DROPPED, _MASKED = range(3)
_Item = TypeVar("_Item")


def splice(texts: Sequence[TextOrPair], count: int, *, seed: int, known: set[str]) -> list[TextOrPair]:
    """Join the beginning of one text and the end of another, each cut between two words or kept whole.

    Of two pairs, the first texts are joined with each other, and so are the second ones.

    Args:
        texts: Training texts.
        count: How many to generate.
        seed: Seed of the draw.
        known: All existing texts, ``normalised``, which are not generated again.

    Returns:
        ``count`` texts that differ from each other and from ``known``; fewer where no more are found.
    """
    words = _words_of(texts)

    def make(random: np.random.Generator) -> TextOrPair:
        chosen = [words[i] for i in random.integers(len(words), size=2)]
        made = []
        for first, second in zip(*chosen, strict=True):
            head = first[: random.integers(1, len(first) + 1)]
            tail = second[random.integers(0, len(second)) :]
            made.append(" ".join([*head, *tail]))
        return _as_text(made)

    return list(_distinct(make, count, (seed, _SPLICED), normalised, known))


def drop_words(
    texts: Sequence[TextOrPair], count: int, *, share: float, seed: int, known: set[str]
) -> list[TextOrPair]:
    """Drop some words of training texts.

    Args:
        texts: Training texts; those of one word, and pairs that contain one, are skipped.
        count: How many to generate.
        share: Probability that a word is dropped; at least one is dropped and at least one is kept, in each text of a
            pair.
        seed: Seed of the draw.
        known: As for ``splice``.

    Returns:
        As for ``splice``.
    """
    words = [parts for parts in _words_of(texts) if min(map(len, parts)) > 1]
    if not words:
        return []

    def shortened(chosen: list[str], random: np.random.Generator) -> str:
        kept = random.random(len(chosen)) >= share
        for is_kept in (True, False):  # drop at least one and keep at least one
            if (kept == is_kept).all():
                kept[random.integers(len(chosen))] = not is_kept
        return " ".join(word for word, is_kept in zip(chosen, kept, strict=True) if is_kept)

    def make(random: np.random.Generator) -> TextOrPair:
        parts = words[random.integers(len(words))]
        return _as_text([shortened(part, random) for part in parts])

    return list(_distinct(make, count, (seed, _DROPPED), normalised, known))


def mask_pieces(
    split: TokenizedSplit,
    count: int,
    *,
    share: float,
    seed: int,
    mask_token_id: int,
    special_ids: Sequence[int],
    known: set[int],
) -> TokenizedSplit:
    """Mask some word pieces of tokenized texts; the labels become ``IGNORED_LABEL``.

    Args:
        split: Tokenized training texts.
        count: How many to generate.
        share: Probability that a word piece is masked; at least one is.
        seed: Seed of the draw.
        mask_token_id: Token id that replaces a masked piece.
        special_ids: Token ids that are never masked.
        known: Ids of existing examples, which are not generated again.
    """

    def make(random: np.random.Generator) -> TokenRow:
        number = int(random.integers(len(split)))
        row = split.row(number).copy()
        pieces = np.flatnonzero(~np.isin(row, special_ids))
        masked = pieces[random.random(len(pieces)) < share]
        if not len(masked) and len(pieces):
            masked = random.choice(pieces, 1)
        row[masked] = mask_token_id
        return TokenRow(row, split.types(number))

    made = list(_distinct(make, count, (seed, _MASKED), lambda row: example_id(*row), known))
    return from_rows(
        [row.ids for row in made], types=None if split.token_types is None else [row.types for row in made]
    )


def _words_of(texts: Sequence[TextOrPair]) -> list[list[list[str]]]:
    """Return the words of each part of each text: of one part, or of the two of a pair."""
    return [[part.split() for part in parts_of(text)] for text in texts]


def _as_text(parts: Sequence[str]) -> TextOrPair:
    """Return one part as a text, and two as a pair."""
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def _distinct(
    make: Callable[[np.random.Generator], _Item],
    count: int,
    seed: tuple[int, int],
    key: Callable[[_Item], str | int],
    known: set[str] | set[int],
) -> Iterator[_Item]:
    """Yield up to ``count`` distinct items; a number is skipped if all its attempts give known items."""
    taken: set[str | int] = set(known)
    for number in range(count):
        random = np.random.default_rng((*seed, number))
        for _ in range(_ATTEMPTS):
            made = make(random)
            if key(made) not in taken:
                taken.add(key(made))
                yield made
                break
