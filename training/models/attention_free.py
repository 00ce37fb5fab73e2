"""The base of text classifiers without attention: initialization, batch normalization, hidden layer and head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .passes import PassLimit, parts_of, run_in_parts

# Added to the variance of each pooled value. A filter that hardly ever fires has almost none; folded into the next
# layer, 1 / its deviation would make weights so large that their common 8-bit scale rounds all the others to 0.
_LEAST_VARIANCE = 1e-2
_SCALE_OF_MORE_ROWS = 0.05  # of their first values, relative to those of word pieces


class AttentionFreeConfig(PreTrainedConfig):
    """Shapes that all of these models have.

    Args:
        vocab_size: Rows of the table of word pieces, V.
        hidden_size: Columns of a word piece, D.
        pooling: How the columns of a text's pieces become one vector, one of ``poolings``.
        classifier_size: Columns of the hidden layer after pooling.
        dropout: Share of the pooled and of the hidden values that are dropped in training, 0 to 1.
        pad_token_id: Row of padding; it is zero.
        initializer_range: Standard deviation of the table and of the head before training.

    Raises:
        ValueError: There is no such pooling.
    """

    poolings: ClassVar[tuple[str, ...]] = ("max_mean",)

    def __init__(
        self,
        vocab_size: int = 30522,
        hidden_size: int = 128,
        pooling: str = "max_mean",
        classifier_size: int = 256,
        dropout: float = 0.1,
        pad_token_id: int = 0,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        if pooling not in self.poolings:
            raise ValueError(f"pooling: {pooling!r} given; accepted: {', '.join(self.poolings)}")
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.pooling = pooling
        self.classifier_size = classifier_size
        self.dropout = dropout
        self.initializer_range = initializer_range
        super().__init__(pad_token_id=pad_token_id, **kwargs)  # pyright: ignore[reportCallIssue]

    @property
    def columns_of_token(self) -> int:
        """Columns that a training step keeps for each token until its gradient is computed."""
        raise NotImplementedError


def has_no_attention(model_type: str) -> bool:
    """Return whether models of a type, as in ``config.json``, are built on this module."""
    return model_type in CONFIG_MAPPING and issubclass(CONFIG_MAPPING[model_type], AttentionFreeConfig)


class AttentionFreePreTrainedModel(PreTrainedModel):
    """A model over a table of word pieces, or its encoder: initializes new weights."""

    base_model_prefix = "encoder"
    supports_gradient_checkpointing = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        head: Any = getattr(self, "classifier", None)
        if module is head:
            # Logits begin near 0, so that no label is preferred before training.
            nn.init.normal_(head.weight, std=self.config.initializer_range)
            nn.init.zeros_(head.bias)
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            # Small, so that they add little before training, but not zero: equal rows would be tied.
            module.weight[self.config.vocab_size :] *= _SCALE_OF_MORE_ROWS
            if module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
        elif isinstance(module, nn.BatchNorm1d):
            module.reset_parameters()


class AttentionFreeEncoder(AttentionFreePreTrainedModel):
    """A table of word pieces, and how the rows of a text become one vector: token ids in, [B, P] out.

    A subclass calls ``forward(input_ids[B, L], attention_mask[B, L] or None)``; padding must not change its result.

    Args:
        config: Has ``vocab_size`` V and ``pad_token_id``.
        num_columns: Columns of the table.
        num_more_rows: Rows after those of the word pieces, for ``rows_of`` to use.
    """

    def __init__(self, config: PreTrainedConfig, num_columns: int, num_more_rows: int = 0) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(
            config.vocab_size + num_more_rows, num_columns, padding_idx=config.pad_token_id
        )

    def rows_of(self, input_ids: Tensor) -> Tensor:
        """Return the numbers of the rows that texts of token ids [B, L] read, int64[B, M]; the ids themselves first."""
        return input_ids

    @property
    def layers_on_rows(self) -> list[nn.Linear]:
        """Linear layers that read rows of the table, and nothing else; none by default."""
        return []

    @property
    def joined_layers(self) -> list[nn.Linear]:
        """Linear layers whose weights are one matrix in a graph, which has one 8-bit scale; none by default."""
        return []

    @property
    def num_pooled(self) -> int:
        """Columns of its result, P."""
        raise NotImplementedError

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of word pieces."""
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the table of word pieces."""
        self.word_embeddings: Any = value


class TextNorm(nn.BatchNorm1d):
    """Batch normalization of [B, P]; a batch of one text, which has no variance, is normalized as in evaluation.

    Args:
        num_columns: P.
    """

    def __init__(self, num_columns: int) -> None:
        super().__init__(num_columns, eps=_LEAST_VARIANCE)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (as in nn.BatchNorm1d)
        """Normalize each column; in evaluation this is a product and a sum, which fold into the next layer."""
        if self.training and len(input) == 1:
            return nn.functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


class AttentionFreeClassifier(AttentionFreePreTrainedModel):
    """An encoder with batch normalization, a hidden layer and a head.

    Args:
        config: Has ``classifier_size``, ``dropout`` and the labels.
        encoder: Computes a text's vector.
    """

    def __init__(self, config: PreTrainedConfig, encoder: AttentionFreeEncoder) -> None:
        super().__init__(config)
        self.num_labels: int = config.num_labels or 1
        self.encoder = encoder
        self.norm = TextNorm(encoder.num_pooled)
        self.pooled_dropout = nn.Dropout(config.dropout)
        self.dense = nn.Linear(encoder.num_pooled, config.classifier_size)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.classifier_size, self.num_labels)
        self._limit: PassLimit | None = None
        self.post_init()

    @contextmanager
    def encoder_passes(self, limit: PassLimit) -> Iterator[None]:
        """Run the encoder in passes within a limit inside the block, of batches that are normalized as a whole.

        The backward pass runs one of them after another again, so that the activations of one are held at a time (Chen
        et al., "Training Deep Nets with Sublinear Memory Cost", 2016).
        """
        self._limit = limit
        try:
            yield
        finally:
            self._limit = None

    def pooled(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the encoder's vector of each text, float[B, P]."""
        if self._limit is None:
            return self.encoder(input_ids, attention_mask)
        parts = parts_of({"input_ids": input_ids, "attention_mask": attention_mask}, self._limit)
        recomputed: Any = partial(checkpoint, self.encoder, use_reentrant=False)
        run = self.encoder if len(parts) == 1 else recomputed
        return run_in_parts(
            parts, lambda part: run(part["input_ids"], part["attention_mask"]), input_ids.shape[1]
        )

    def features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the hidden layer that the head reads, float[B, classifier_size]."""
        pooled = self.pooled_dropout(self.norm(self.pooled(input_ids, attention_mask)))
        return self.dropout(torch.relu(self.dense(pooled)))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Return the logits, float[B, C], and with labels [B] or [B, C] the loss against them."""
        logits: Any = self.classifier(self.features(input_ids, attention_mask))
        loss: Any = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def scale_and_shift(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Return scale[P] and shift[P], float64, of ``norm(x) = scale * x + shift`` in evaluation mode."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    scale = norm.weight.double() / (variance.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - mean.double() * scale


def without_norm(norm: nn.BatchNorm1d, dense: nn.Linear) -> tuple[Tensor, Tensor]:
    """Return weight[H, P] and bias[H] of ``dense(norm(x))``, which is one linear layer in evaluation mode."""
    (scale, shift), weight = scale_and_shift(norm), dense.weight.double()
    return (weight * scale).float(), (dense.bias.double() + weight @ shift).float()


def kept_positions(input_ids: Tensor, attention_mask: Tensor | None, like: Tensor) -> Tensor:
    """Return 1 for a word piece and 0 for padding, [B, L, 1], of the type of ``like``."""
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    return mask[:, :, None].to(like.dtype)
