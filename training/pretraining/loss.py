"""DistilBERT's loss of two models on a masked batch, computing only the logits that the loss needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...errors import InputError
from ..checkpoints.masked_lm import language_head
from ..data.tokenized import IGNORED_LABEL
from ..distillation.losses import cosine_loss, cross_entropy, soft_target_loss
from .arguments import PretrainingArguments

PARTS = ("masked_lm", "distillation", "cosine")
# Maximum number of logits of one model at a time: 128 MB per tensor in 32 bits, of which a few exist at once. More are
# computed in chunks, and recomputed in the backward pass.
LOGITS_AT_ONCE = 2**25


def pretraining_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    student_states: Tensor,
    teacher_states: Tensor,
    attention_mask: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 5.0,
    gamma: float = 1.0,
    temperature: float = 2.0,
) -> Tensor:
    """Return DistilBERT's triple loss: alpha · MLM + beta · KD + gamma · (1 - cos(h_s, h_t)), a scalar.

    Sanh et al. 2019 (arXiv 1910.01108), section 3; the default weights are those of its published training
    script. MLM is averaged over masked tokens, KD and the cosine over the tokens that are not padding.

    Args:
        student_logits: [B, L, V].
        teacher_logits: [B, L, V].
        labels: [B, L], -100 where the token was not masked.
        student_states: Last hidden states [B, L, D].
        teacher_states: Last hidden states [B, L, D].
        attention_mask: [B, L], 1 for a token, 0 for padding.
        alpha: Weight of masked-language-model cross-entropy.
        beta: Weight of the soft-target loss.
        gamma: Weight of the cosine loss.
        temperature: T of the soft-target loss.
    """
    keep = attention_mask.bool()
    masked = cross_entropy(student_logits.flatten(0, 1), labels.flatten())
    soft = soft_target_loss(student_logits[keep], teacher_logits[keep], temperature=temperature)
    return alpha * masked + beta * soft + gamma * cosine_loss(student_states, teacher_states, attention_mask)


class TripleLoss:
    """Compute the parts of ``pretraining_loss`` from models instead of their outputs.

    Args:
        student: A masked-language model of a known family, without wrappers.
        teacher: Another one with the same vocabulary; required, and run, only if beta or gamma is not 0.
        args: The weights, the temperature, and at which tokens to distil.
        autocast: Context manager for the precision of teacher and heads.

    Raises:
        InputError: The teacher is missing, or does not fit the student.
        ModelError: The masked-language head of a family is unknown.
    """

    def __init__(
        self,
        student: Any,
        teacher: Any,
        args: PretrainingArguments,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._student = student
        self._args = args
        self._autocast = autocast
        self._teacher = None
        if args.beta or args.gamma:
            _check_fit(student, teacher, args)
            self._teacher = teacher.eval().to(args.device)
        if args.alpha or args.beta:
            language_head(student)

    def counts(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Count the tokens of a batch for each part, int64[3]: masked, distilled, all except padding."""
        masked = (batch["labels"] != IGNORED_LABEL).sum()
        tokens = batch["attention_mask"].sum()
        return torch.stack([masked, tokens if self._args.distil_positions == "all" else masked, tokens])

    def parts(self, model: nn.Module, batch: Mapping[str, Tensor], counts: Tensor) -> Tensor:
        """Compute the ``PARTS`` of a batch, float32[3]: sums over its tokens, each divided by its count.

        Args:
            model: The student with its wrappers.
            batch: ``input_ids``, ``attention_mask`` and ``labels``, each [B, L].
            counts: Result of the method ``counts`` for the whole optimizer step.
        """
        args, labels, mask = self._args, batch["labels"], batch["attention_mask"]
        features = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with _last_states(self._student) as found:
            model(**features)
        states, teacher_states = found[0], None  # [B, L, D]
        if self._teacher is not None:
            with torch.no_grad(), self._autocast():
                teacher_states = self._teacher.base_model(**features)[0]
        counts = counts.clamp(min=1)
        parts = torch.zeros(3, device=states.device)
        if args.alpha or args.beta:
            everywhere = args.beta and args.distil_positions == "all"
            at = mask.bool() if everywhere else labels != IGNORED_LABEL
            others = teacher_states[at] if args.beta and teacher_states is not None else None
            parts = self._head_parts(states[at], others, labels[at], counts)
        if args.gamma and teacher_states is not None:
            cosine = cosine_loss(states, teacher_states, mask) * mask.sum() / counts[2]
            parts = torch.cat([parts[:2], cosine[None]])
        return parts

    def weighted(self, parts: Tensor | Sequence[float]) -> Any:
        """Return alpha · MLM + beta · KD + gamma · cosine."""
        return self._args.alpha * parts[0] + self._args.beta * parts[1] + self._args.gamma * parts[2]

    def named(self, parts: Sequence[float]) -> dict[str, float]:
        """Return the parts that have weight, by name."""
        weights = (self._args.alpha, self._args.beta, self._args.gamma)
        return {name: part for name, part, weight in zip(PARTS, parts, weights, strict=True) if weight}

    def _head_parts(
        self, states: Tensor, teacher_states: Tensor | None, labels: Tensor, counts: Tensor
    ) -> Tensor:
        """Compute the parts that need logits from states[N, D] and labels[N]; the third is 0."""
        rows = max(1, LOGITS_AT_ONCE // self._student.config.vocab_size)
        if len(states) <= rows:
            return self._of_rows(states, teacher_states, labels, counts)
        parts = torch.zeros(3, device=states.device)
        for start in range(0, len(states), rows):
            at = slice(start, start + rows)
            chunk = (states[at], None if teacher_states is None else teacher_states[at], labels[at], counts)
            found: Any = checkpoint(self._of_rows, *chunk, use_reentrant=False, preserve_rng_state=False)
            parts = parts + found
        return parts

    def _of_rows(
        self, states: Tensor, teacher_states: Tensor | None, labels: Tensor, counts: Tensor
    ) -> Tensor:
        masked = soft = torch.zeros((), device=states.device)
        with self._autocast():
            logits = language_head(self._student)(states)
            if self._args.alpha:
                masked = cross_entropy(logits, labels, num_items=counts[0])
            if teacher_states is not None:
                with torch.no_grad():
                    others = language_head(self._teacher)(teacher_states)
                soft = soft_target_loss(
                    logits, others, temperature=self._args.temperature, num_items=counts[1]
                )
        return torch.stack([masked, soft, torch.zeros_like(masked)])


@contextmanager
def _last_states(model: Any) -> Iterator[list[Tensor]]:
    """Collect the encoder's last hidden states[B, L, D] of forward passes in the block; the head gets one token only.

    The whole model must be called, because it may be wrapped (mixed precision, several processes), but its head would
    compute logits for every token, padding included.
    """
    found: list[Tensor] = []

    def keep(module: nn.Module, given: Any, output: Any) -> Any:
        found.append(output[0])
        output.last_hidden_state = output[0][:1, :1]
        return output

    handle = model.base_model.register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def _check_fit(student: Any, teacher: Any, args: PretrainingArguments) -> None:
    if teacher is None:
        raise InputError(
            f"beta is {args.beta} and gamma {args.gamma}, but there is no teacher_model; pass one, or set both to 0"
        )
    if args.beta:
        language_head(teacher)
        pieces, others = student.config.vocab_size, teacher.config.vocab_size
        if pieces != others:
            raise InputError(
                f"beta is {args.beta}: distillation needs the same vocabulary, but the student's has {pieces:,} "
                f"pieces, the teacher's {others:,}; set beta to 0"
            )
    width, others = student.config.hidden_size, teacher.config.hidden_size
    if args.gamma and width != others:
        raise InputError(
            f"gamma is {args.gamma}: the cosine needs equal widths, but the student's is {width}, the teacher's "
            f"{others}; set gamma to 0"
        )
