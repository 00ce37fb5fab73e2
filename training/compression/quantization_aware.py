"""The trainer callback that fake-quantizes the student's layers in the last epochs, matching the exported graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...errors import InputError
from ..models.attention_free import AttentionFreeClassifier, scale_and_shift, without_norm
from ..models.families import first_position
from ..models.trainable_embedding_rows import table_range
from .config import QuantizationAwareConfig
from .fake_quantization import quantized_linear, range_of_4_bits, read_back_4_bits, read_back_8_bits

# The exporter folds token types into a constant, which stays in 32 bits.
_TOKEN_TYPES = "token_type_embeddings"
_POSITIONS = "position_embeddings"


class FakeQuantized(ExitStack):
    """Fake-quantize a model's linear layers and embedding tables until closed.

    Only ``forward`` of these layers is replaced: weights, their names and the state dict are those of the plain
    model, in 32 bits. The same operations are quantized as by ``quantize_dynamic`` in the exported graph: products
    with a constant matrix (encoder, pooler and head), and embedding lookups except of token types. Products of two
    activations are not quantized.

    Args:
        model: a classifier; ``train_used_rows`` or ``first_token_in_last_layer`` may already be applied to it.
        config: what is quantized, and how.
        max_length: largest number of tokens of a text, which limits the positions of the exported graph; None: all
            of the model's positions.

    Attributes:
        in_training: whether layers in training mode are quantized; those in evaluation mode always are.
    """

    def __init__(
        self, model: nn.Module, config: QuantizationAwareConfig, *, max_length: int | None = None
    ) -> None:
        super().__init__()
        self.in_training = True
        self._config = config
        tables = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.Embedding) and not name.endswith(_TOKEN_TYPES)
        }
        largest = max(tables.values(), key=lambda table: table.num_embeddings, default=None)
        classifier: Any = model if hasattr(model, "config") else None
        num_positions = (
            None if max_length is None or classifier is None else max_length + first_position(classifier)
        )
        linear = {module: self._linear(module) for module in model.modules() if isinstance(module, nn.Linear)}
        if isinstance(model, AttentionFreeClassifier):
            linear |= self._as_in_graph(model)
        for module, quantized in linear.items():
            self._replace(module, quantized)
        if config.embedding_bits is not None:
            for name, table in tables.items():
                in_4_bits = config.embedding_bits == 4 and table is largest
                num_rows = num_positions if name.endswith(_POSITIONS) else None
                self._replace(table, self._table(table, in_4_bits=in_4_bits, num_rows=num_rows))

    def _replace(self, module: nn.Module, quantized: Callable[[Tensor], Tensor]) -> None:
        plain = module.forward

        def forward(x: Tensor) -> Tensor:
            return quantized(x) if self.in_training or not module.training else plain(x)

        before = vars(module).get("forward")
        if before is None:
            self.callback(vars(module).pop, "forward")
        else:
            self.callback(setattr, module, "forward", before)
        module.forward = forward

    def _as_in_graph(self, model: AttentionFreeClassifier) -> dict[nn.Linear, Callable[[Tensor], Tensor]]:
        """Return the products that the graph of a student without attention computes in its own way."""
        encoder, norm, dense = model.encoder, model.norm, model.dense
        folded = _FoldedNorm(model, self._product(lambda: without_norm(norm, dense)))
        self._replace(norm, folded.passed_on)
        self._replace(model.pooled_dropout, folded.dropped)
        products: dict[nn.Linear, Callable[[Tensor], Tensor]] = {dense: folded.product}
        on_rows, joined = encoder.layers_on_rows, encoder.joined_layers
        in_8_bits = self._config.embedding_bits is not None  # such rows are not quantized again
        for each in dict.fromkeys([*on_rows, *joined]):
            others = joined if each in joined else []
            products[each] = self._linear(each, dynamic=not (in_8_bits and each in on_rows), joined=others)
        return products

    def _linear(
        self, module: nn.Linear, *, dynamic: bool = True, joined: Sequence[nn.Linear] = ()
    ) -> Callable[[Tensor], Tensor]:
        return self._product(lambda: (module.weight, module.bias), dynamic=dynamic, joined=joined)

    def _product(
        self,
        linear: Callable[[], tuple[Tensor, Tensor | None]],
        *,
        dynamic: bool = True,
        joined: Sequence[nn.Linear] = (),
    ) -> Callable[[Tensor], Tensor]:
        options = {
            "per_channel": self._config.weights == "per_channel",
            "bits": self._config.weight_bits,
            "dynamic": dynamic and self._config.activations == "dynamic",
        }
        return lambda x: quantized_linear(x, *linear(), **options, joined=[each.weight for each in joined])

    def _table(
        self, table: nn.Embedding, *, in_4_bits: bool, num_rows: int | None
    ) -> Callable[[Tensor], Tensor]:
        # Rows are quantized after the lookup, which gives the same values without quantizing the whole table.
        plain = table.forward
        if in_4_bits:  # stored in 4 bits, and expanded to 8 when the graph is loaded
            return lambda ids: read_back_8_bits(
                read_back_4_bits(plain(ids)), *table_range(table, range_of=range_of_4_bits)
            )
        return lambda ids: read_back_8_bits(plain(ids), *table_range(table, num_rows))


class _FoldedNorm:
    """``dense(dropout(norm(x)))`` as one product of x, which the exported graph computes in evaluation mode.

    Args:
        model: Has these three layers.
        product: ``dense(norm(x))`` in evaluation mode, as one quantized product.
    """

    def __init__(self, model: AttentionFreeClassifier, product: Callable[[Tensor], Tensor]) -> None:
        self._norm, self._dropout, self._dense = model.norm, model.pooled_dropout, model.dense
        self._update, self._drop = self._norm.forward, self._dropout.forward
        self._product = product
        # 0 for a dropped value, otherwise 1 / (1 - the share of dropped ones); None where none are dropped.
        self._kept: Tensor | None = None

    def passed_on(self, x: Tensor) -> Tensor:
        """Update the statistics of ``norm``, which the product contains, and return x as it is."""
        if self._norm.training:
            with torch.no_grad():
                self._update(x)
        return x

    def dropped(self, x: Tensor) -> Tensor:
        """Drop values of x, and remember which."""
        drops = self._dropout.training and self._dropout.p
        self._kept = self._drop(torch.ones_like(x)) if drops else None
        return x if self._kept is None else x * self._kept

    def product(self, x: Tensor) -> Tensor:
        """Return the product, as if the normalized values had been dropped."""
        found = self._product(x)
        if self._kept is None:
            return found
        # norm(x) = scale * x + shift, and the folded bias contains the whole shift.
        _, shift = scale_and_shift(self._norm)
        change = shift.to(self._kept.dtype) * (self._kept - 1)
        return found + nn.functional.linear(change, self._dense.weight)


class QuantizationAwareTraining(TrainerCallback):
    """Train the last epochs with fake quantization, without changing the learning rate schedule.

    Checkpoints hold the plain weights at every epoch. Evaluation during training uses the quantized model in all
    epochs, including the earlier ones, so that the best epoch is selected by the exported model's quality. After
    training the model computes as before.

    Args:
        config: how many epochs, what is quantized, and how.
        max_length: largest number of tokens of a text, as for the export; None: all of the model's positions.

    Raises:
        InputError: at the start of training, if it has fewer epochs.
    """

    def __init__(self, config: QuantizationAwareConfig, *, max_length: int | None = None) -> None:
        self._config = config
        self._max_length = max_length
        self._quantized: FakeQuantized | None = None
        self._first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Replace ``forward`` of the layers, and compute the first step of quantized training."""
        self._close()  # left over from an interrupted training
        num_batches = len(kwargs["train_dataloader"])
        steps_per_epoch = -(-num_batches // args.gradient_accumulation_steps)
        self._first_step = first_step(self._config.num_epochs, state.max_steps, steps_per_epoch)
        self._quantized = FakeQuantized(kwargs["model"], self._config, max_length=self._max_length)
        self._quantized.in_training = state.global_step >= self._first_step

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Switch quantization on from its first step on, also if training is resumed after it."""
        if self._quantized is not None:
            self._quantized.in_training = state.global_step >= self._first_step

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore the layers' original ``forward``."""
        self._close()

    def _close(self) -> None:
        if self._quantized is not None:
            self._quantized.close()
            self._quantized = None


def first_step(num_epochs: float, max_steps: int, steps_per_epoch: int) -> int:
    """Return the step, from 0, at which the last ``num_epochs`` begin.

    A ``num_epochs`` below 1 is a share of all ``max_steps``.

    Raises:
        InputError: the training has fewer epochs.
    """
    num_steps = max(1, round(num_epochs * (max_steps if num_epochs < 1 else steps_per_epoch)))
    if num_steps > max_steps:
        raise InputError(
            f"training.quantization_aware.num_epochs is {num_epochs:g}, but the training has "
            f"{max_steps / steps_per_epoch:g} epochs; give at most that many, or a share below 1"
        )
    return max_steps - num_steps
