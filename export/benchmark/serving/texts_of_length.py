"""How many tokens long a text is, and texts that are so many tokens long, made of the words of others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import tokenizers

from ....errors import InputError
from ...runtime.classifier import CONFIG_FILE, TOKENIZER_FILE


def untruncated(directory: str | Path) -> tokenizers.Tokenizer:
    """The artifact's tokenizer, which neither pads nor cuts."""
    return tokenizers.Tokenizer.from_file(str(Path(directory) / TOKENIZER_FILE))


def num_tokens(directory: str | Path, text: str) -> int:
    """How many tokens of a text an artifact reads, special ones included."""
    config = json.loads((Path(directory) / CONFIG_FILE).read_text(encoding="utf-8"))
    return min(len(untruncated(directory).encode(text)), config["max_length"])


def text_of_length(tokenizer: tokenizers.Tokenizer, texts: Sequence[str], num_tokens: int) -> str:
    """The words of ``texts`` in their order, over and over, as many as fit into ``num_tokens``.

    Args:
        tokenizer: without truncation.
        texts: with one word at least.
        num_tokens: special tokens included. The text is shorter where no word fits what remains.

    Raises:
        InputError: not one word fits.
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
    # A tokenizer may see words together in another way than each alone.
    while taken and len(tokenizer.encode(" ".join(taken))) > num_tokens:
        taken.pop()
    if not taken:
        raise InputError(f"no word of the texts fits into {num_tokens} tokens; give longer lengths")
    return " ".join(taken)


def batch_of(texts: Sequence[str], size: int) -> list[str]:
    """``size`` texts: these in their order, over and over."""
    return list(islice(cycle(texts), size))
