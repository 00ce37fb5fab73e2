"""The trainer callbacks that the ``training`` section of a specification asks for."""

from __future__ import annotations

from transformers import TrainerCallback

from ..compression.pruning.callback import PruningCallback
from ..compression.quantization_aware import QuantizationAwareTraining
from .config import TrainingConfig


def callbacks_of(config: TrainingConfig) -> list[TrainerCallback]:
    """New callbacks for one training, in the order in which they are to be called."""
    callbacks: list[TrainerCallback] = []
    if config.pruning is not None:
        callbacks.append(PruningCallback(config.pruning))
    if config.quantization_aware is not None:
        callbacks.append(QuantizationAwareTraining(config.quantization_aware, max_length=config.max_length))
    return callbacks
