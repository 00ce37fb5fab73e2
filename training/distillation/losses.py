"""The losses of distillation as pure functions of logits, labels and hidden states.

Shapes: B examples, C classes, L tokens, D width, V vocabulary. Everything is computed in float32 whatever
the inputs are. ``num_items`` is what a sum over examples is divided by; give the number of examples of the
whole accumulated batch and the parts of its micro-batches add up to the loss of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tasks import SINGLE_LABEL, Task
from ..tasks.losses import cross_entropy, soft_target_loss


@dataclass(frozen=True)
class LossParts:
    """``loss`` and the unweighted parts it is made of (``None``: not computed)."""

    loss: Tensor
    cross_entropy: Tensor | None = None
    distillation: Tensor | None = None


def loss_parts(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    labels: Tensor | None,
    *,
    alpha: float,
    temperature: float,
    num_items: Tensor | int | None = None,
    label_smoothing: float = 0.0,
    task: Task = SINGLE_LABEL,
) -> LossParts:
    """``distillation_loss`` together with its two parts.

    Both parts are the losses of ``task``. ``teacher_logits`` may be ``None`` where alpha is 1, ``labels`` where
    alpha is 0. Both parts are divided by ``num_items`` (default B), unlabelled rows included: a row's weight never
    depends on its neighbours.

    Raises:
        ValueError: a part that has weight lacks its input, or the two logits differ in shape.
    """
    if alpha < 1 and teacher_logits is None:
        raise ValueError(f"alpha is {alpha}: the distillation part needs teacher_logits")
    if alpha > 0 and labels is None:
        raise ValueError(f"alpha is {alpha}: the cross-entropy part needs labels")
    divisor = len(student_logits) if num_items is None else num_items
    hard = soft = None
    loss: Tensor | None = None
    if labels is not None:
        # With alpha 0 cross-entropy is only watched, so it stays out of the graph.
        with torch.set_grad_enabled(torch.is_grad_enabled() and alpha > 0):
            hard = task.hard_loss(student_logits, labels, num_items=divisor, label_smoothing=label_smoothing)
        loss = alpha * hard if alpha > 0 else None
    if alpha < 1 and teacher_logits is not None:
        if teacher_logits.shape != student_logits.shape:
            raise ValueError(
                f"teacher_logits have shape {tuple(teacher_logits.shape)}, "
                f"the student's {tuple(student_logits.shape)}: both need the same examples and labels"
            )
        soft = task.soft_loss(student_logits, teacher_logits, temperature=temperature, num_items=divisor)
        loss = (1 - alpha) * soft if loss is None else loss + (1 - alpha) * soft
    assert loss is not None
    return LossParts(loss, None if hard is None else hard.detach(), None if soft is None else soft.detach())


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    labels: Tensor | None,
    *,
    alpha: float,
    temperature: float,
    num_items: Tensor | int | None = None,
) -> Tensor:
    """The loss alpha · CE(z_s, y) + (1 - alpha) · T² · KL(softmax(z_t/T) ‖ softmax(z_s/T)), a scalar.

    Args:
        student_logits: z_s[B, C].
        teacher_logits: z_t[B, C]; may be ``None`` where alpha is 1.
        labels: y[B], -100 for a row without label; may be ``None`` where alpha is 0.
        alpha: weight of cross-entropy, 0 to 1.
        temperature: T, above 0.
        num_items: divisor of both sums over rows; default B.
    """
    return loss_parts(
        student_logits, teacher_logits, labels, alpha=alpha, temperature=temperature, num_items=num_items
    ).loss


def hidden_state_loss(
    student_states: Sequence[Tensor],
    teacher_states: Sequence[Tensor],
    attention_mask: Tensor | None,
    *,
    num_items: Tensor | int | None = None,
) -> Tensor:
    """Mean squared difference of matched layers' states[B, L, D], padding left out.

    The mean is over width and over an example's own tokens, then over the layers and the examples (TinyBERT,
    arXiv 1909.10351, equation 8, without its projection: the widths must agree).
    """
    total = torch.zeros((), device=student_states[0].device)
    for student, teacher in zip(student_states, teacher_states, strict=True):
        squared = (student.float() - teacher.detach().float()).square().mean(dim=-1)
        if attention_mask is None:
            total = total + squared.mean(dim=-1).sum()
        else:
            mask = attention_mask.to(squared.dtype)
            total = total + ((squared * mask).sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)).sum()
    divisor = len(student_states[0]) if num_items is None else num_items
    return total / (len(student_states) * divisor)


def cosine_loss(student_states: Tensor, teacher_states: Tensor, attention_mask: Tensor) -> Tensor:
    """1 - cos(h_s, h_t) of states[B, L, D], averaged over the tokens that attention_mask[B, L] keeps."""
    keep = attention_mask.bool()
    similarity = F.cosine_similarity(
        student_states[keep].float(), teacher_states[keep].detach().float(), dim=-1
    )
    return (1 - similarity).mean()


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
    """DistilBERT's triple loss: alpha · MLM + beta · KD + gamma · (1 - cos(h_s, h_t)), a scalar.

    Sanh et al. 2019 (arXiv 1910.01108), section 3; the default weights are those of its published training
    script. MLM is averaged over masked tokens, KD and the cosine over the tokens that are not padding.

    Args:
        student_logits: [B, L, V].
        teacher_logits: [B, L, V].
        labels: [B, L], -100 where the token was not masked.
        student_states: last hidden states [B, L, D].
        teacher_states: last hidden states [B, L, D].
        attention_mask: [B, L], 1 for a token, 0 for padding.
        alpha: weight of masked-language-model cross-entropy.
        beta: weight of the soft-target loss.
        gamma: weight of the cosine loss.
        temperature: T of the soft-target loss.
    """
    keep = attention_mask.bool()
    masked = cross_entropy(student_logits.flatten(0, 1), labels.flatten())
    soft = soft_target_loss(student_logits[keep], teacher_logits[keep], temperature=temperature)
    return alpha * masked + beta * soft + gamma * cosine_loss(student_states, teacher_states, attention_mask)
