"""A ``transformers.Trainer`` whose passes fit in memory, and one whose steps also save needless work."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from ..models.attention_free import AttentionFreeClassifier
from ..models.passes import (
    MOST_TOKENS,
    Part,
    PassLimit,
    inference_limit,
    parts_of,
    step_in_parts,
    training_limit,
)

logger = logging.getLogger(__name__)


class BoundedTrainer(Trainer):
    """Train as ``Trainer`` does, in forward passes with a bounded number of tokens.

    A batch with more, padding included, is split into passes of texts of similar lengths. Loss and gradients of a step
    are those of the whole batch, except for rounding and the random numbers of dropout. The bound is
    ``args.max_batch_tokens``, or follows from free memory.
    """

    learns_tokens: bool = False
    """Whether labels are those of tokens."""
    _limits: dict[bool, PassLimit] | None = None

    def bare_model(self) -> Any:
        """Return the model without what distributed training wraps it in."""
        assert self.model is not None
        return self.accelerator.unwrap_model(self.model)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as ``Trainer`` does."""
        self._limits = None
        return super().train(*args, **kwargs)

    def pass_limit(self, *, is_trained: bool) -> PassLimit:
        """Return the bound on passes with gradients, or on those without; determined once for each training."""
        limits = self._limits = {} if self._limits is None else self._limits
        if is_trained not in limits:
            model, given = self.bare_model(), getattr(self.args, "max_batch_tokens", None)
            limits[is_trained] = (
                training_limit(model, given)
                if is_trained
                else inference_limit(model, given, most=MOST_TOKENS)
            )
        return limits[is_trained]

    def parts(self, inputs: dict[str, Any], *, is_trained: bool) -> list[Part]:
        """Split a batch into passes."""
        multiple = getattr(self.args, "pad_to_multiple_of", None) or 1
        limit = self.pass_limit(is_trained=is_trained)
        return parts_of(inputs, limit, multiple=multiple, of_tokens=self.learns_tokens)

    def training_parts(self, inputs: dict[str, Any]) -> list[Part]:
        """Split a training batch into passes, unless its model does so; of the first step their number is logged."""
        parts = self.parts(inputs, is_trained=True)
        if len(parts) > 1 and self.state.global_step == 0:
            num, length = inputs["input_ids"].shape
            logger.info("training on %d texts of up to %d tokens in %d passes", num, length, len(parts))
        return [Part(inputs)] if isinstance(self.bare_model(), AttentionFreeClassifier) else parts

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Compute loss and gradients as ``Trainer`` does, in one pass or several."""
        step = super().training_step
        with self._encoder_passes():
            # Without the divisor, the loss of each part would be a mean over that part alone.
            if num_items_in_batch is None:
                return step(model, inputs)
            parts = self.training_parts(inputs)
            if len(parts) == 1:
                return step(model, parts[0].batch, num_items_in_batch)
            return step_in_parts(
                parts, lambda part: step(model, part, num_items_in_batch), self.accelerator, model
            )

    def _encoder_passes(self) -> AbstractContextManager[None]:
        """Let a model that normalizes whole batches split them itself."""
        model = self.bare_model()
        if isinstance(model, AttentionFreeClassifier):
            return model.encoder_passes(self.pass_limit(is_trained=True))
        return nullcontext()


class LeanTrainer(BoundedTrainer):
    """Train as ``Trainer`` does, with the same result, in less time for each step."""

    _num_matmul_parameters: int | None = None

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Count as ``Trainer`` does, without walking through all modules at every step."""
        if "input_ids" not in inputs or not hasattr(self.model, "num_parameters"):
            return 0
        if self._num_matmul_parameters is None:
            self._num_matmul_parameters = self.bare_model().num_parameters(exclude_embeddings=True)
        return 6 * inputs["input_ids"].numel() * int(self._num_matmul_parameters or 0)

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip as ``Trainer`` does, but on one CPU do not rewrite (multiply by 1) gradients under the limit."""
        if self.args.device.type != "cpu" or self.args.world_size > 1:
            return super()._clip_grad_norm(model)
        parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
        if not norm <= self.args.max_grad_norm:  # also true for a NaN norm
            nn.utils.clip_grads_with_norm_(parameters, self.args.max_grad_norm, norm)
        return norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Return the norm as ``Trainer`` does, which computes one even if ``max_grad_norm`` is 0."""
        return None if grad_norm is None else super()._get_grad_norm(model, grad_norm=grad_norm)
