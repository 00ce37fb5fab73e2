"""Hidden states: squared difference from matched layers of the teacher, weighted by ``hidden_loss_weight``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ....errors import InputError
from ...section import Layers
from .base import LOSS_TERMS, LossInputs, LossTerm, Need

if TYPE_CHECKING:
    from torch import Tensor


@LOSS_TERMS.register
class HiddenStates(LossTerm):
    """Add hidden_loss_weight · mean squared difference of matched layers of equal width."""

    layers: Layers | None = None

    name: ClassVar[str] = "hidden_loss"
    needs: ClassVar[frozenset[Need]] = frozenset({"hidden_states"})
    argument: ClassVar[str | None] = "hidden_loss_weight"

    @classmethod
    def of_arguments(cls, args: Any) -> Self:
        """Build the term from the arguments."""
        return cls.model_construct(weight=args.hidden_loss_weight, layers=args.hidden_layers)

    def check(self, student_config: Any, teacher_config: Any) -> None:
        """Reject different widths, and layers that the models do not have.

        Raises:
            InputError: Widths differ, or ``hidden_layers`` does not name one existing layer for each of the student.
        """
        check_widths(student_config, teacher_config, self)
        matched_layers(student_config.num_hidden_layers, teacher_config.num_hidden_layers, self.layers)

    def value(self, inputs: LossInputs) -> Tensor:
        """Return the squared difference, without that of the embeddings' output, the first state."""
        own, others = inputs.states
        matched = matched_layers(len(own) - 1, len(others) - 1, self.layers)
        states = [others[layer + 1] for layer in matched]
        return hidden_state_loss(own[1:], states, inputs.attention_mask, num_items=inputs.text_divisor)


def check_widths(student_config: Any, teacher_config: Any, term: LossTerm) -> None:
    """Reject a student without layers, and one whose hidden states have another width than the teacher's.

    Raises:
        InputError: There are no hidden states, or the widths differ; gives both and how to remove the term.
    """
    if not hasattr(student_config, "num_hidden_layers"):
        raise InputError(
            f"{term.path()} needs hidden states of layers, but the student, of type {student_config.model_type!r}, has "
            f"no layers; {term.remedy()}, or build the student from the teacher's layers"
        )
    if student_config.hidden_size != teacher_config.hidden_size:
        raise InputError(
            f"{term.path()} needs equal widths: the student's is {student_config.hidden_size}, the "
            f"teacher's {teacher_config.hidden_size}; {term.remedy()}, or build the student from the teacher's layers"
        )


def matched_layers(num_layers: int, num_teacher_layers: int, layers: list[int] | None) -> list[int]:
    """Return the teacher's layer (from 0) for each layer of the student.

    Args:
        num_layers: Layers of the student.
        num_teacher_layers: Layers of the teacher.
        layers: The configured layers; None spaces them evenly, the last matched with the last.

    Raises:
        InputError: ``layers`` does not name one existing layer for each of the student's.
    """
    if layers is None:
        return [max(0, (layer + 1) * num_teacher_layers // num_layers - 1) for layer in range(num_layers)]
    if len(layers) != num_layers or not all(0 <= layer < num_teacher_layers for layer in layers):
        raise InputError(
            f"hidden_layers is {layers}; accepted: {num_layers} numbers, one for each student layer, "
            f"each from 0 to {num_teacher_layers - 1}"
        )
    return layers


def hidden_state_loss(
    student_states: Sequence[Tensor],
    teacher_states: Sequence[Tensor],
    attention_mask: Tensor | None,
    *,
    num_items: Tensor | int | None = None,
) -> Tensor:
    """Return the mean squared difference of matched layers' states[B, L, D] in float32, ignoring padding.

    The mean is over width and over an example's own tokens, then over the layers and the examples (TinyBERT,
    arXiv 1909.10351, equation 8, without its projection: the widths must agree).

    ``num_items``: divisor of the sum over examples; by default their number.
    """
    import torch

    total = torch.zeros((), device=student_states[0].device)
    for student, teacher in zip(student_states, teacher_states, strict=True):
        squared = (student.float() - teacher.detach().float()).square().mean(dim=-1)
        total = total + mean_over_tokens(squared, attention_mask).sum()
    divisor = len(student_states[0]) if num_items is None else num_items
    return total / (len(student_states) * divisor)


def mean_over_tokens(values: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return the mean [B] of values[B, L] over the tokens that attention_mask[B, L] keeps; None keeps all."""
    if attention_mask is None:
        return values.mean(dim=-1)
    mask = attention_mask.to(values.dtype)
    return (values * mask).sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)
