"""The ``training`` section of a job's specification."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..compression.config import PruningConfig, QuantizationAwareConfig
from ..compression.pruning.base import PRUNING_RULES
from ..registry import SectionsByName
from ..section import (
    BatchSize,
    Epochs,
    LearningRate,
    Name,
    Plain,
    Section,
    Seed,
    Share,
    Temperature,
    WarmupRatio,
    Weight,
)
from .losses.base import LossTerm, with_sections


class TrainingConfig(Section):
    """How a student is trained; a searched argument of the same name takes its place in each trial."""

    alpha: Share = Field(default=0.5, description="Weight of cross-entropy; 1 - alpha weighs distillation.")
    temperature: Temperature = Field(default=4.0, description="Softmax temperature of the distillation loss.")
    num_train_epochs: Epochs = Field(default=8, description="Epochs.")
    learning_rate: LearningRate = Field(default=6e-4, description="Peak learning rate.")
    batch_size: BatchSize = Field(default=64, description="Texts a step (per_device_train_batch_size).")
    eval_batch_size: BatchSize = Field(
        default=256, description="Texts an evaluation step (per_device_eval_batch_size)."
    )
    warmup_ratio: WarmupRatio = Field(default=0.1, description="Share of the steps in which the rate rises.")
    weight_decay: Weight = Field(default=0.01, description="AdamW weight decay.")
    max_length: int = Field(
        default=64, ge=4, le=2**20, description="Tokens a text is cut to, special tokens included."
    )
    seed: Seed = Field(default=42, description="Seed of shuffling and dropout.")
    quantization_aware: QuantizationAwareConfig | None = Field(
        default=None, description="Quantize the student in its last epochs, so that it learns to bear it."
    )
    pruning: Annotated[PruningConfig | None, PRUNING_RULES.field(default="magnitude")] = Field(
        default=None, description="Prune the student while it is trained; by default it stays whole."
    )
    losses: Annotated[dict[str, LossTerm], SectionsByName(with_sections)] = Field(
        default_factory=dict,
        description="More terms of the loss by name, each with its keys: `cosine: {weight: 1.0}`.",
    )
    arguments: dict[Name, Plain] = Field(
        default_factory=dict,
        max_length=200,
        description="Any other field of DistillationTrainingArguments, by name "
        "(for example hidden_loss_weight).",
    )
