"""Measure how long texts are in tokens, and how many of them are truncated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_NUM_MEASURED = 5000  # texts, evenly spaced


@dataclass(frozen=True)
class TokenLengths:
    """Lengths of texts in tokens, special tokens included.

    Attributes:
        num_texts: Number of texts that were measured.
        max_length: Tokens to which texts are truncated.
        share_truncated: Share of the texts that are longer, 0 to 1.
        p95, p99, p995: Percentiles: that share of the texts has at most so many tokens.
        longest: The largest number of tokens.
    """

    num_texts: int
    max_length: int
    share_truncated: float
    p95: int
    p99: int
    p995: int
    longest: int

    def to_json(self) -> dict[str, Any]:
        """Return the lengths as JSON values."""
        return asdict(self)


def measure_lengths(tokenizer: Any, texts: Sequence[str], max_length: int) -> TokenLengths:
    """Tokenize up to 5,000 of the texts, evenly spaced, and measure their lengths.

    Args:
        tokenizer: A fast tokenizer of transformers.
        texts: At least one text.
        max_length: Tokens to which texts are truncated.
    """
    step = -(-len(texts) // _NUM_MEASURED)
    encoded = tokenizer(list(texts[::step]), truncation=False, return_attention_mask=False, verbose=False)
    lengths = np.array([len(ids) for ids in encoded["input_ids"]])
    p95, p99, p995 = (int(np.ceil(each)) for each in np.percentile(lengths, [95, 99, 99.5]))
    return TokenLengths(
        num_texts=len(lengths),
        max_length=max_length,
        share_truncated=float((lengths > max_length).mean()),
        p95=p95,
        p99=p99,
        p995=p995,
        longest=int(lengths.max()),
    )
