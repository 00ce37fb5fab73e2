"""The trainer callbacks required by the ``training`` section of a specification."""

from __future__ import annotations

from transformers import TrainerCallback

from ..compression.pruning.callback import PruningCallback
from ..compression.quantization_aware import QuantizationAwareTraining
from .config import AUTO, TrainingConfig


def callbacks_of(config: TrainingConfig) -> list[TrainerCallback]:
    """Create the callbacks for one training, in the order in which they must be called."""
    callbacks: list[TrainerCallback] = []
    if config.pruning is not None:
        callbacks.append(PruningCallback(config.pruning))
    if config.quantization_aware is not None:
        length = None if config.max_length == AUTO else config.num_tokens  # None: all positions
        callbacks.append(QuantizationAwareTraining(config.quantization_aware, max_length=length))
    return callbacks
