"""A text classifier without attention: a weighted mean of word pieces and pairs of them, and a hidden layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification

from .attention_free import AttentionFreeClassifier, AttentionFreeConfig, AttentionFreeEncoder, kept_positions

MODEL_TYPE = "distiltune-static"
HASH_FACTOR = 2_654_435_761
"""Multiplies the first id of a pair: a prime near 2^32 divided by the golden ratio (Knuth, TAOCP 3, section 6.4)."""


class StaticConfig(AttentionFreeConfig):
    """Shapes of a :class:`StaticForSequenceClassification`.

    Args:
        hidden_size: Columns of a word piece, D; the table has one more, the logarithm of its weight.
        **kwargs: As for :class:`AttentionFreeConfig`; ``pooling`` is ``mean``, the weighted mean of the text's pieces,
            or ``max_mean``, their maximum as well.
        hashed_bigrams: Rows of the table for pairs of consecutive word pieces, R; pairs with equal hashes share a row.
    """

    model_type = MODEL_TYPE
    poolings = ("max_mean", "mean")

    def __init__(self, hidden_size: int = 256, hashed_bigrams: int = 0, **kwargs: Any) -> None:
        self.hashed_bigrams = hashed_bigrams
        super().__init__(hidden_size=hidden_size, **kwargs)

    @property
    def columns_of_token(self) -> int:
        """Columns that a training step keeps for each token until its gradient is computed."""
        return (6 if self.hashed_bigrams else 3) * (self.hidden_size + 1)


class StaticModel(AttentionFreeEncoder):
    """The table of word pieces and the mean of a text's rows: token ids in, [B, P] out.

    The weight of a piece is stored in its row, and rows of pairs follow those of pieces, so that code that ties, trims,
    quantizes or trains rows has a single table to handle.
    """

    config_class = StaticConfig

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config, config.hidden_size + 1, config.hashed_bigrams)
        self.post_init()

    @property
    def num_pooled(self) -> int:
        """Columns of its result, P."""
        return self.config.hidden_size * (2 if self.config.pooling == "max_mean" else 1)

    def rows_of(self, input_ids: Tensor) -> Tensor:
        """Return the rows of the pieces and then those of pairs of neighbours, int64[B, L or 2L - 1]."""
        if not self.config.hashed_bigrams:
            return input_ids
        hashed = (input_ids[:, :-1] * HASH_FACTOR + input_ids[:, 1:]) % self.config.hashed_bigrams
        return torch.cat([input_ids, self.config.vocab_size + hashed], dim=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the mean of the rows' columns, weighted by exp of their last one, float[B, P].

        With ``max_mean`` the maxima, or 0 where all are negative, precede the means. Padding and pairs whose second
        piece is padding have weight 0.
        """
        rows = self.word_embeddings(self.rows_of(input_ids))
        kept = kept_positions(input_ids, attention_mask, rows)
        if self.config.hashed_bigrams:
            kept = torch.cat([kept, kept[:, 1:]], dim=1)
        x, weight = rows[:, :, :-1], torch.exp(rows[:, :, -1:]) * kept
        mean = (x * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-6)
        if self.config.pooling == "mean":
            return mean
        return torch.cat([(torch.relu(x) * kept).amax(dim=1), mean], dim=-1)


class StaticForSequenceClassification(AttentionFreeClassifier):
    """A weighted mean of word pieces, and of pairs of them, with batch normalization, a hidden layer and a head."""

    config_class = StaticConfig

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config, StaticModel(config))


AutoConfig.register(MODEL_TYPE, StaticConfig)
AutoModelForSequenceClassification.register(StaticConfig, StaticForSequenceClassification)
