"""Count the tokens of a text, and compose texts of a given number of tokens from the words of others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import tokenizers

from ....errors import InputError
from ...runtime.classifier import SETTINGS_FILE, TOKENIZER_FILE


def untruncated(directory: str | Path) -> tokenizers.Tokenizer:
    """Load the artifact's tokenizer without its truncation; it does not pad either."""
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(directory) / TOKENIZER_FILE))
    tokenizer.no_truncation()
    return tokenizer


def num_tokens(directory: str | Path, text: str) -> int:
    """Return how many tokens of a text an artifact processes, including special ones."""
    config = json.loads((Path(directory) / SETTINGS_FILE).read_text(encoding="utf-8"))
    return min(len(untruncated(directory).encode(text)), config["max_length"])


def text_of_length(tokenizer: tokenizers.Tokenizer, texts: Sequence[str], num_tokens: int) -> str:
    """Join words of ``texts``, in order and in a cycle, into a text of at most ``num_tokens`` tokens.

    Args:
        tokenizer: a tokenizer without truncation.
        texts: texts with at least one word.
        num_tokens: length including special tokens. The text is shorter if no word fits into the remainder.

    Raises:
        InputError: no word fits.
    """
    words = " ".join(texts).split()
    encoded = tokenizer.encode_batch_fast([f" {word}" for word in words], add_special_tokens=False)
    sizes = [len(each) for each in encoded]
    remaining = num_tokens - tokenizer.num_special_tokens_to_add(is_pair=False)
    taken: list[str] = []
    skipped = 0
    for word, size in cycle(zip(words, sizes, strict=True)):
        if remaining <= 0 or skipped == len(words):
            break
        if 0 < size <= remaining:
            taken.append(word)
            remaining, skipped = remaining - size, 0
        else:
            skipped += 1
    # A tokenizer may split words differently when they are joined.
    while taken and len(tokenizer.encode(" ".join(taken))) > num_tokens:
        taken.pop()
    if not taken:
        raise InputError(f"no word of the texts fits into {num_tokens} tokens; use greater lengths")
    return " ".join(taken)


def batch_of(texts: Sequence[str], size: int) -> list[str]:
    """Return ``size`` texts: the given ones in order, in a cycle."""
    return list(islice(cycle(texts), size))
