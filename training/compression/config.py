"""The sections ``training.pruning`` and ``training.quantization_aware`` of a job's specification."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ..section import LearningRate, Probability, Section, ShareBelowOne, Weight


class QuantizationAwareConfig(Section):
    """Last epochs in which the student computes with the numbers that its quantized graph will have."""

    num_epochs: float = Field(
        default=2,
        gt=0,
        le=100_000,
        description="Last epochs that are trained so; below 1: a share of all steps.",
    )
    weights: Literal["per_tensor", "per_channel"] = Field(
        default="per_tensor",
        description="One scale for a weight matrix, as onnx-int8 has it, or one for each of its columns.",
    )
    weight_bits: Literal[7, 8] = Field(
        default=8,
        description="Bits of a weight; 7 as in onnx-int8-reduced-range, and as in onnx-int8 where that is made on an "
        "x86 processor without VNNI.",
    )
    embedding_bits: Literal[4, 8] | None = Field(
        default=8,
        description="Bits of the embedding table: 4 as in onnx-int8-embeddings-4bit; null leaves it in 32.",
    )
    activations: Literal["dynamic", "none"] = Field(
        default="dynamic",
        description="dynamic: what goes into a product is quantized to 8 bits by its range; none: it is not.",
    )


class PruningConfig(Section):
    """Weights that become zero while the student is trained: of the encoder's matrices, not the embeddings."""

    method: Literal["magnitude", "movement", "soft_movement"] = Field(
        default="magnitude",
        description="What is masked: magnitude: the smallest weights; movement: those that training moves "
        "towards zero the most; soft_movement: those whose score falls below a threshold.",
    )
    sparsity: ShareBelowOne | None = Field(
        default=None,
        description="magnitude, movement: share of each matrix that is zero in the end; default: 0.5. "
        "soft_movement has none: it comes of `threshold` and `regularization`.",
    )
    initial_sparsity: ShareBelowOne = Field(
        default=0.0, description="magnitude, movement: share that is zero from the first mask on."
    )
    begin: ShareBelowOne = Field(default=0.1, description="Share of the steps before the first mask.")
    end: float = Field(
        default=0.7, gt=0, le=1, description="Share of the steps after which the masks stay as they are."
    )
    update_every: int = Field(
        default=20, ge=1, le=10**9, description="Steps between two updates of the masks."
    )
    threshold: Probability = Field(
        default=0.1, description="soft_movement: of sigmoid(score), at the schedule's end."
    )
    regularization: Weight = Field(
        default=100.0,
        description="soft_movement: weight of mean(sigmoid(score)) in the loss, at its end.",
    )
    score_learning_rate: LearningRate = Field(
        default=1e-2,
        description="movement, soft_movement: Adam's rate for the scores, which begin at 0.",
    )

    @property
    def final_sparsity(self) -> float:
        """The sparsity that magnitude and movement reach."""
        return 0.5 if self.sparsity is None else self.sparsity

    def mask_steps(self, num_steps: int) -> range:
        """The steps of a training of ``num_steps`` after which masks are updated; the last is at most at ``end``.

        A training too short for two updates ``update_every`` apart has them at ``begin`` and ``end``.
        """
        first = int(self.begin * num_steps)
        last = max(first + 1, round(self.end * num_steps))
        return range(first, last + 1, min(self.update_every, last - first))

    @model_validator(mode="after")
    def _possible(self) -> PruningConfig:
        if self.sparsity is not None and self.method == "soft_movement":
            raise ValueError(
                f"sparsity {self.sparsity:g} and method soft_movement, which has none to reach; set threshold and "
                "regularization, or take method movement"
            )
        if self.initial_sparsity and (
            self.method == "soft_movement" or self.initial_sparsity > self.final_sparsity
        ):
            raise ValueError(
                f"initial_sparsity {self.initial_sparsity:g} given; accepted: 0 up to sparsity, "
                f"{self.final_sparsity:g}; 0 for soft_movement, which has none"
            )
        if self.begin >= self.end:
            raise ValueError(f"begin {self.begin:g} must be below end {self.end:g}")
        return self
