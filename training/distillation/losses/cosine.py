"""The cosine between the last hidden states of student and teacher, weighted by ``training.losses.cosine.weight``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from .base import LOSS_TERMS, LossInputs, LossTerm, Need
from .hidden_states import check_widths, mean_over_tokens

if TYPE_CHECKING:
    from torch import Tensor


@LOSS_TERMS.register
class Cosine(LossTerm):
    """Add 1 - cos(h_s, h_t) of the last hidden states, as in DistilBERT (arXiv 1910.01108, section 3)."""

    name: ClassVar[str] = "cosine"
    needs: ClassVar[frozenset[Need]] = frozenset({"hidden_states"})

    def check(self, student_config: Any, teacher_config: Any) -> None:
        """Reject a student and a teacher of different widths.

        Raises:
            InputError: The widths differ; gives both and the remedy.
        """
        check_widths(student_config, teacher_config, self)

    def value(self, inputs: LossInputs) -> Tensor:
        """Return 1 - cos averaged over an example's own tokens, then over the examples."""
        from torch.nn import functional

        own, others = (states[-1].float() for states in inputs.states)
        distance = 1 - functional.cosine_similarity(own, others.detach(), dim=-1)
        return mean_over_tokens(distance, inputs.attention_mask).sum() / inputs.text_divisor


def cosine_loss(student_states: Tensor, teacher_states: Tensor, attention_mask: Tensor) -> Tensor:
    """Return 1 - cos(h_s, h_t) of states[B, L, D], averaged over the tokens that attention_mask[B, L] keeps."""
    from torch.nn import functional

    keep = attention_mask.bool()
    similarity = functional.cosine_similarity(
        student_states[keep].float(), teacher_states[keep].detach().float(), dim=-1
    )
    return (1 - similarity).mean()
