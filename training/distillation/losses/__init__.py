"""Loss terms: a file for each. Importing this registers them, in the order in which they are summed."""

from . import hard_targets, soft_targets, hidden_states, cosine  # noqa: F401, I001 - the order of the sum
from .cosine import cosine_loss
from .hard_targets import cross_entropy
from .hidden_states import hidden_state_loss
from .soft_targets import soft_target_loss
from .total import distillation_loss

__all__ = ["cosine_loss", "cross_entropy", "distillation_loss", "hidden_state_loss", "soft_target_loss"]
