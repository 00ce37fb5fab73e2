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

_TRIES = 20  # attempts to generate a new text
_SPLICED, _DROPPED, _MASKED = range(3)
_Made = TypeVar("_Made")


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
    words = [[part.split() for part in parts_of(text)] for text in texts]

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
        texts: Training texts; those of one word, and pairs with one of them, are skipped.
        count: How many to generate.
        share: Probability that a word is dropped; at least one is dropped and at least one is kept, in each text of a
            pair.
        seed: Seed of the draw.
        known: As for ``splice``.

    Returns:
        As for ``splice``.
    """
    words = [split for text in texts if min(map(len, split := [part.split() for part in parts_of(text)])) > 1]
    if not words:
        return []

    def shortened(chosen: list[str], random: np.random.Generator) -> str:
        kept = random.random(len(chosen)) >= share
        for all_alike in (True, False):  # drop at least one and keep at least one
            if (kept == all_alike).all():
                kept[random.integers(len(chosen))] = not all_alike
        return " ".join(word for word, stays in zip(chosen, kept, strict=True) if stays)

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


def _as_text(parts: Sequence[str]) -> TextOrPair:
    """Return one part as a text, and two as a pair."""
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def _distinct(
    make: Callable[[np.random.Generator], _Made],
    count: int,
    seed: tuple[int, int],
    key: Callable[[_Made], str | int],
    known: set[str] | set[int],
) -> Iterator[_Made]:
    """Yield up to ``count`` distinct items; a number whose attempts all give known items is skipped."""
    taken: set[str | int] = set(known)
    for number in range(count):
        random = np.random.default_rng((*seed, number))
        for _ in range(_TRIES):
            made = make(random)
            if key(made) not in taken:
                taken.add(key(made))
                yield made
                break
