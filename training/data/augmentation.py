"""Texts made of training texts, for the teacher to label: splices, dropped words, masked word pieces.

Every text is drawn by a generator of its own, from seed, kind and number: the same seed gives the same texts, and
fewer of them are the first of more. What stands in a split that is measured is never made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from .tokenized import TokenizedSplit, example_id, from_rows

_TRIES = 20  # at a text that is not there already
_SPLICED, _DROPPED, _MASKED = range(3)
_Made = TypeVar("_Made")


def normalised(text: str) -> str:
    """What two texts share that are the same to a reader: words, whatever their case and spaces."""
    return " ".join(text.casefold().split())


def splice(texts: Sequence[str], count: int, *, seed: int, known: set[str]) -> list[str]:
    """The beginning of one text and the end of another, each cut between two words or kept whole.

    Args:
        texts: Training texts.
        count: How many to make.
        seed: Of the draw.
        known: Texts, ``normalised``, that are not to be made: all that are there already.

    Returns:
        ``count`` texts that differ from each other and from those; fewer where there are no more.
    """
    words = [text.split() for text in texts]

    def make(random: np.random.Generator) -> str:
        first, second = (words[i] for i in random.integers(len(words), size=2))
        head = first[: random.integers(1, len(first) + 1)]
        tail = second[random.integers(0, len(second)) :]
        return " ".join([*head, *tail])

    return list(_distinct(make, count, (seed, _SPLICED), normalised, known))


def drop_words(texts: Sequence[str], count: int, *, share: float, seed: int, known: set[str]) -> list[str]:
    """Texts that lack some of their words, as ``splice`` gives them.

    Args:
        texts: Training texts; those of one word are passed over.
        count: How many to make.
        share: Probability that a word is dropped; one at least goes and one at least stays.
        seed: Of the draw.
        known: As for ``splice``.
    """
    words = [split for text in texts if len(split := text.split()) > 1]
    if not words:
        return []

    def make(random: np.random.Generator) -> str:
        chosen = words[random.integers(len(words))]
        kept = random.random(len(chosen)) >= share
        for all_alike in (True, False):  # one at least goes and one at least stays
            if (kept == all_alike).all():
                kept[random.integers(len(chosen))] = not all_alike
        return " ".join(word for word, stays in zip(chosen, kept, strict=True) if stays)

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
    """Token ids of texts some of whose word pieces are masked; their labels are ``IGNORED_LABEL``.

    Args:
        split: Tokenized training texts.
        count: How many to make.
        share: Probability that a word piece is masked; one at least is.
        seed: Of the draw.
        mask_token_id: What stands in place of a piece.
        special_ids: Token ids that are never masked.
        known: Ids of examples that are not to be made.
    """

    def make(random: np.random.Generator) -> np.ndarray:
        row = split.row(int(random.integers(len(split)))).copy()
        pieces = np.flatnonzero(~np.isin(row, special_ids))
        masked = pieces[random.random(len(pieces)) < share]
        if not len(masked) and len(pieces):
            masked = random.choice(pieces, 1)
        row[masked] = mask_token_id
        return row

    return from_rows(list(_distinct(make, count, (seed, _MASKED), example_id, known)))


def _distinct(
    make: Callable[[np.random.Generator], _Made],
    count: int,
    seed: tuple[int, int],
    key: Callable[[_Made], str | int],
    known: set[str] | set[int],
) -> Iterator[_Made]:
    """Up to ``count`` different things; where all tries of a number gave what is there already, it has none."""
    taken: set[str | int] = set(known)
    for number in range(count):
        random = np.random.default_rng((*seed, number))
        for _ in range(_TRIES):
            made = make(random)
            if key(made) not in taken:
                taken.add(key(made))
                yield made
                break
