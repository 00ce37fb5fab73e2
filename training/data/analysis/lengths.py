"""Measure how many tokens texts have, how many texts are truncated, and how many tokens nearly all texts need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ....texts import TextOrPair

_NUM_MEASURED = 5000  # texts, evenly spaced
_LEAST_LENGTH = 16
_STEP = 8  # matrices whose sides are multiples of it are multiplied fastest


@dataclass(frozen=True)
class TokenLengths:
    """Lengths of texts in tokens, special tokens included.

    Attributes:
        num_texts: Number of texts that were measured.
        max_length: Tokens to which texts are truncated.
        share_truncated: Share of the texts that are longer, 0 to 1.
        p95, p99, p995: Percentiles of the number of tokens: 95 %, 99 % and 99.5 % of the texts have at most so many.
        longest: Largest number of tokens.
        automatic: Whether ``max_length`` was chosen from such lengths (``max_length: auto``).
    """

    num_texts: int
    max_length: int
    share_truncated: float
    p95: int
    p99: int
    p995: int
    longest: int
    automatic: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the lengths as JSON values."""
        return asdict(self)


def count_tokens(tokenizer: Any, texts: Sequence[TextOrPair]) -> np.ndarray:
    """Return the number of tokens, int[N], of up to 5,000 of the texts, evenly spaced.

    Args:
        tokenizer: A fast tokenizer of transformers.
        texts: At least one text; a pair is one sequence with the tokens that the tokenizer puts between its texts.
    """
    step = -(-len(texts) // _NUM_MEASURED)
    encoded = tokenizer(list(texts[::step]), truncation=False, return_attention_mask=False, verbose=False)
    return np.array([len(ids) for ids in encoded["input_ids"]])


def token_lengths(counts: np.ndarray, max_length: int, *, automatic: bool = False) -> TokenLengths:
    """Summarize numbers of tokens.

    Args:
        counts: Tokens of each text, int[N], N at least 1.
        max_length: Tokens to which texts are truncated.
        automatic: Whether ``max_length`` was chosen from lengths.
    """
    p95, p99, p995 = (int(np.ceil(each)) for each in np.percentile(counts, [95, 99, 99.5]))
    return TokenLengths(
        num_texts=len(counts),
        max_length=max_length,
        share_truncated=float((counts > max_length).mean()),
        p95=p95,
        p99=p99,
        p995=p995,
        longest=int(counts.max()),
        automatic=automatic,
    )


def needed_length(counts: np.ndarray) -> int:
    """Return the number of tokens that 99.5 % of the texts do not exceed, a multiple of 8 of at least 16.

    Args:
        counts: Tokens of each text, int[N], N at least 1.
    """
    needed = int(np.ceil(np.percentile(counts, 99.5)))
    return max(_LEAST_LENGTH, -(-needed // _STEP) * _STEP)
