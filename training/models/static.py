"""A text classifier without attention and word order: a weighted mean of word pieces, and a hidden layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification

from .attention_free import AttentionFreeClassifier, AttentionFreeConfig, AttentionFreeEncoder, kept_positions

MODEL_TYPE = "distiltune-static"


class StaticConfig(AttentionFreeConfig):
    """Shapes of a :class:`StaticForSequenceClassification`.

    Args:
        hidden_size: Columns of a word piece, D; the table has one more, the logarithm of its weight.
        **kwargs: As for :class:`AttentionFreeConfig`; ``pooling`` is ``mean``, the weighted mean of the text's pieces,
            or ``max_mean``, their maximum as well.
    """

    model_type = MODEL_TYPE
    poolings = ("max_mean", "mean")

    def __init__(self, hidden_size: int = 256, **kwargs: Any) -> None:
        super().__init__(hidden_size=hidden_size, **kwargs)


class StaticModel(AttentionFreeEncoder):
    """The table of word pieces and the mean of a text's rows: token ids in, [B, P] out.

    The weight of a piece stands in its row, so that what shares, trims, quantizes or trains rows needs no second table.
    """

    config_class = StaticConfig

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config, config.hidden_size + 1)
        self.post_init()

    @property
    def num_pooled(self) -> int:
        """Columns of its result, P."""
        return self.config.hidden_size * (2 if self.config.pooling == "max_mean" else 1)

    @property
    def num_kept(self) -> int:
        """Columns that a training step keeps for each token until its gradient is computed."""
        return 3 * (self.config.hidden_size + 1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the mean of the pieces' columns, weighted by exp of their last one, float[B, P].

        With ``max_mean`` the maxima, or 0 where all are negative, stand before the means. Padding has weight 0.
        """
        rows = self.word_embeddings(input_ids)
        kept = kept_positions(input_ids, attention_mask, rows)
        x, weight = rows[:, :, :-1], torch.exp(rows[:, :, -1:]) * kept
        mean = (x * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-6)
        if self.config.pooling == "mean":
            return mean
        return torch.cat([(torch.relu(x) * kept).amax(dim=1), mean], dim=-1)


class StaticForSequenceClassification(AttentionFreeClassifier):
    """A weighted mean of word pieces with batch normalization, a hidden layer and a head."""

    config_class = StaticConfig

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config, StaticModel(config))


AutoConfig.register(MODEL_TYPE, StaticConfig)
AutoModelForSequenceClassification.register(StaticConfig, StaticForSequenceClassification)
