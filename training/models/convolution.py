"""A text classifier without attention: a convolution over word pieces, pooled, and a hidden layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.pytorch_utils import prune_linear_layer

from .attention_free import (
    AttentionFreeClassifier,
    AttentionFreeConfig,
    AttentionFreeEncoder,
    TextNorm,
    kept_positions,
    scale_and_shift,
)

MODEL_TYPE = "distiltune-convolution"


class ConvolutionConfig(AttentionFreeConfig):
    """Shapes of a :class:`ConvolutionForSequenceClassification`.

    Args:
        window_sizes: Word pieces that a filter reads, one number for each group of filters.
        num_filters: Filters of each group, F.
        num_blocks: Residual blocks over the word pieces before the filters.
        block_size: Columns inside a block.
        block_window_size: Word pieces that a block reads.
        **kwargs: As for :class:`AttentionFreeConfig`; ``pooling`` is ``max``, the maximum of a filter over the text, or
            ``max_mean``, its maximum and its mean.
    """

    model_type = MODEL_TYPE
    poolings = ("max_mean", "max")

    def __init__(
        self,
        window_sizes: tuple[int, ...] | list[int] = (3,),
        num_filters: int = 384,
        num_blocks: int = 0,
        block_size: int = 256,
        block_window_size: int = 3,
        **kwargs: Any,
    ) -> None:
        self.window_sizes = list(window_sizes)
        self.num_filters = num_filters
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.block_window_size = block_window_size
        super().__init__(**kwargs)

    @property
    def columns_of_token(self) -> int:
        """Columns that a training step keeps for each token until its gradient is computed."""
        block = self.block_window_size * self.hidden_size + 2 * self.block_size + self.hidden_size
        filters = sum(self.window_sizes) * self.hidden_size + 3 * len(self.window_sizes) * self.num_filters
        return self.hidden_size + self.num_blocks * block + filters


class WindowProduct(nn.Module):
    """One product over each window of consecutive positions: [B, L, D] in, [B, L, F] out.

    A window of n positions reaches ``(n - 1) // 2`` positions to the left and ``n // 2`` to the right; beyond the
    text it reads zeros. This is a convolution, written as a matrix product, which quantizes to 8 bits and runs faster
    on a CPU than a convolution node.

    Args:
        size: Columns of its input, D.
        num_outputs: Columns of its output, F.
        window_size: Positions of a window, n.
    """

    def __init__(self, size: int, num_outputs: int, window_size: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.linear = nn.Linear(window_size * size, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the product of each window."""
        return self.linear(windows(x, self.window_size))


def windows(x: Tensor, window_size: int) -> Tensor:
    """Set the rows of each window side by side: [B, L, D] to [B, L, window_size * D], zeros beyond the text."""
    if window_size == 1:
        return x
    length = x.shape[1]
    padded = nn.functional.pad(x, (0, 0, (window_size - 1) // 2, window_size // 2))
    return torch.cat([padded[:, start : start + length] for start in range(window_size)], dim=-1)


class ResidualBlock(nn.Module):
    """``x + W2 relu(W1 window(x))``: [B, L, D] in and out."""

    def __init__(self, config: ConvolutionConfig) -> None:
        super().__init__()
        self.first = WindowProduct(config.hidden_size, config.block_size, config.block_window_size)
        self.second = nn.Linear(config.block_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input plus the block's change."""
        return x + self.second(torch.relu(self.first(x)))


class ConvolutionModel(AttentionFreeEncoder):
    """The table of word pieces, residual blocks, filters and their pooling: token ids in, [B, P] out."""

    config_class = ConvolutionConfig

    def __init__(self, config: ConvolutionConfig) -> None:
        super().__init__(config, config.hidden_size)
        self.blocks = nn.ModuleList(ResidualBlock(config) for _ in range(config.num_blocks))
        self.filters = nn.ModuleList(
            WindowProduct(config.hidden_size, config.num_filters, size) for size in config.window_sizes
        )
        self.post_init()

    @property
    def layers_on_rows(self) -> list[nn.Linear]:
        """The first product of the first block, or without blocks those of the filters."""
        blocks: Any = self.blocks
        return [blocks[0].first.linear] if blocks else self.joined_layers

    @property
    def joined_layers(self) -> list[nn.Linear]:
        """The filters of all window sizes."""
        filters: Any = self.filters
        return [each.linear for each in filters]

    @property
    def num_pooled(self) -> int:
        """Columns of its result, P: those of every filter, twice with ``max_mean``."""
        num_filters = len(self.filters) * self.config.num_filters
        return num_filters * (2 if self.config.pooling == "max_mean" else 1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the pooled filters, float[B, P]: their maxima, and with ``max_mean`` then their means.

        Padding changes nothing: its row of the table is zero, as are the positions beyond the text, and its filters
        are not pooled.
        """
        x = self.word_embeddings(input_ids)
        kept = kept_positions(input_ids, attention_mask, x)
        for block in self.blocks:
            x = block(x) * kept
        # Filters are at least zero, so that a zero in place of padding changes neither the maximum nor the sum.
        found = torch.relu(torch.cat([each(x) for each in self.filters], dim=-1)) * kept
        pooled = found.amax(dim=1)
        if self.config.pooling == "max":
            return pooled
        mean = found.sum(dim=1) / kept.sum(dim=1).clamp(min=1.0)
        return torch.cat([pooled, mean], dim=-1)


class ConvolutionForSequenceClassification(AttentionFreeClassifier):
    """A convolution over word pieces with batch normalization, a hidden layer and a head."""

    config_class = ConvolutionConfig

    def __init__(self, config: ConvolutionConfig) -> None:
        super().__init__(config, ConvolutionModel(config))


def filter_importance(model: ConvolutionForSequenceClassification) -> Tensor:
    """Return how much each filter moves the hidden layer, float64[G, F] for G window sizes with F filters each.

    This is the standard deviation, over training texts, of what a filter's pooled values add to the inputs of the
    hidden layer: that of the value itself, times the scale of the batch normalization, times the norm of its weights.
    Of ``max_mean``, the squares of both values are added, as if they were independent.
    """
    norm, weight = model.norm, model.dense.weight.detach().double()
    assert norm.running_var is not None
    scale, _ = scale_and_shift(norm)
    variance = scale.detach().square() * norm.running_var.double() * weight.square().sum(0)
    return variance.view(-1, len(model.config.window_sizes), model.config.num_filters).sum(0).sqrt()


@torch.no_grad()
def keep_filters(model: ConvolutionForSequenceClassification, kept: Sequence[Sequence[int]]) -> None:
    """Remove all filters but those given, in place.

    What the removed ones add to the hidden layer on average over the training texts is added to its bias.

    Args:
        model: A trained convolution.
        kept: Filters to keep of each window size, counted from 0, in ascending order; the same number of each.
    """
    config, norm, groups = model.config, model.norm, cast(Sequence[WindowProduct], model.encoder.filters)
    columns = torch.arange(norm.num_features).view(-1, len(kept), config.num_filters)
    chosen: Any = torch.cat(
        [columns[:, group, list(each)] for group, each in enumerate(kept)], dim=1
    ).flatten()
    removed = torch.ones(norm.num_features, dtype=torch.bool)
    removed[chosen] = False
    model.dense.bias.add_(model.dense.weight[:, removed] @ norm.bias[removed])
    model.dense = prune_linear_layer(model.dense, chosen, dim=1)
    model.norm = TextNorm(len(chosen))
    values = norm.state_dict().items()  # of each column, and the number of batches
    model.norm.load_state_dict({name: value[chosen] if value.ndim else value for name, value in values})
    model.norm.train(norm.training)
    for filters, each in zip(groups, kept, strict=True):
        rows: Any = torch.tensor(each)
        filters.linear = prune_linear_layer(filters.linear, rows, dim=0)
    config.num_filters = len(kept[0])


AutoConfig.register(MODEL_TYPE, ConvolutionConfig)
AutoModelForSequenceClassification.register(ConvolutionConfig, ConvolutionForSequenceClassification)
