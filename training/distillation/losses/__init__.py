"""Loss terms, one per module. Importing this registers them in the order in which they are summed."""
# ruff: noqa: I001

from . import hard_targets, soft_targets, hidden_states, cosine  # noqa: F401 - the order of the sum
from ...tasks.losses import cross_entropy, soft_target_loss
from .cosine import cosine_loss
from .hidden_states import hidden_state_loss
from .total import distillation_loss

__all__ = ["cosine_loss", "cross_entropy", "distillation_loss", "hidden_state_loss", "soft_target_loss"]
