"""Count the tokens of a text, and compose texts of a given number of tokens from the words of others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import tokenizers

from ....errors import InputError
from ....texts import TextOrPair, all_parts, from_json, parts_of
from ...artifact.manifest import SETTINGS_FILE, TOKENIZER_FILE


def untruncated(directory: str | Path) -> tokenizers.Tokenizer:
    """Load the artifact's tokenizer without truncation; its file contains no padding."""
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(directory) / TOKENIZER_FILE))
    tokenizer.no_truncation()
    return tokenizer


def num_tokens(directory: str | Path, text: TextOrPair) -> int:
    """Return how many tokens of a text or pair an artifact processes, including special ones."""
    config = json.loads((Path(directory) / SETTINGS_FILE).read_text(encoding="utf-8"))
    return min(_length(untruncated(directory), parts_of(from_json(text))), config["max_length"])


def text_of_length(
    tokenizer: tokenizers.Tokenizer, texts: Sequence[TextOrPair], num_tokens: int
) -> TextOrPair:
    """Join words of ``texts``, in order and in a cycle, into a text or pair of at most ``num_tokens`` tokens.

    The words are divided evenly between the two texts of a pair.

    Args:
        tokenizer: a tokenizer without truncation.
        texts: texts, or pairs, with at least one word.
        num_tokens: length including special tokens. The text is shorter if no word fits into the remainder.

    Raises:
        InputError: no word fits.
    """
    words, is_pair = " ".join(all_parts(texts)).split(), not isinstance(texts[0], str)
    encoded = tokenizer.encode_batch_fast([f" {word}" for word in words], add_special_tokens=False)
    sizes = [len(each) for each in encoded]
    remaining = num_tokens - tokenizer.num_special_tokens_to_add(is_pair=is_pair)
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
    while taken and _length(tokenizer, _shared_out(taken, is_pair=is_pair)) > num_tokens:
        taken.pop()
    if len(taken) < 1 + is_pair:
        none = "no two words of the texts fit" if is_pair else "no word of the texts fits"
        raise InputError(f"{none} into {num_tokens} tokens; use greater lengths")
    first, *second = _shared_out(taken, is_pair=is_pair)
    return (first, second[0]) if second else first


def _shared_out(words: Sequence[str], *, is_pair: bool) -> list[str]:
    """Return words as one text, or as the two texts of a pair."""
    middle = (len(words) + 1) // 2 if is_pair else len(words)
    return [" ".join(words[:middle]), " ".join(words[middle:])][: 1 + is_pair]


def _length(tokenizer: tokenizers.Tokenizer, parts: Sequence[str]) -> int:
    return len(tokenizer.encode(parts[0], parts[1] if len(parts) > 1 else None))


def batch_of(texts: Sequence[TextOrPair], size: int) -> list[TextOrPair]:
    """Return ``size`` texts: the given ones in order, in a cycle."""
    return list(islice(cycle(texts), size))
