"""The ``student.pretraining`` section of a job's specification."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ..section import (
    Count,
    Epochs,
    Name,
    OptimizationConfig,
    Probability,
    Seed,
    Temperature,
    Weight,
)


class PretrainingConfig(OptimizationConfig):
    """Pretrain the student on unlabelled texts before distillation: alpha MLM + beta KD + gamma cosine."""

    checkpoint: Name | None = Field(
        default=None,
        description="Masked-language model to learn from: directory or hub id, with the student's word pieces. "
        "Default: the teacher.",
    )
    num_train_epochs: Epochs = 3
    alpha: Weight = Field(default=2.0, description="Weight of masked-language-model cross-entropy.")
    beta: Weight = Field(default=5.0, description="Weight of distillation over the vocabulary.")
    gamma: Weight = Field(default=1.0, description="Weight of 1 - cosine of the last hidden states.")
    temperature: Temperature = Field(default=2.0, description="Softmax temperature of the distillation.")
    mlm_probability: Probability = Field(default=0.15, description="Share of word pieces to mask.")
    distil_positions: Literal["all", "masked"] = Field(
        default="all", description="Distil at every word piece, or only at masked ones (faster)."
    )
    head_epochs: int = Field(
        default=1,
        ge=0,
        le=100_000,
        description="Epochs of training a masked-language head on the frozen teacher, if beta needs one and the "
        "teacher has none; 0 rejects such a teacher.",
    )
    max_texts: Count | None = Field(
        default=None,
        description="Use at most this many texts of train and data.unlabelled, sampled with `seed`.",
    )
    seed: Seed = Field(
        default=0,
        description="Seed of that sample, shuffling, masks and dropout. Default: the job's `seed`.",
    )

    @model_validator(mode="after")
    def _has_weight(self) -> PretrainingConfig:
        if not self.alpha + self.beta + self.gamma:
            raise ValueError(
                "alpha, beta and gamma are all 0; set one of them above 0, or remove the section"
            )
        return self
