"""The ``training`` section of a job's specification."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field

from ..compression.config import PruningConfig, QuantizationAwareConfig
from ..compression.pruning.base import PRUNING_RULES
from ..section import (
    Balance,
    BatchSize,
    Epochs,
    LearningRate,
    Name,
    OptimizationConfig,
    Plain,
    Section,
    Seed,
    Share,
    Temperature,
    Weight,
)
from ..section_registry import SectionsByName
from .losses.base import LossTerm, with_sections

AUTO = "auto"
MOST_AUTOMATIC = 8192
"""Most tokens that ``max_length: auto`` stands for."""
LEAST_TOKENS, _MOST_TOKENS = 4, 2**20


def _length(value: Any) -> Any:
    if value == AUTO or (type(value) is int and LEAST_TOKENS <= value <= _MOST_TOKENS):
        return value
    raise ValueError(f"accepted: {AUTO}, or a whole number from {LEAST_TOKENS} to {_MOST_TOKENS}")


MaxLength = Annotated[
    Annotated[int, Field(ge=LEAST_TOKENS, le=_MOST_TOKENS)] | Literal["auto"], BeforeValidator(_length)
]


class KindTraining(Section):
    """Training of the students of one kind; a key that is not given has the value of the section ``training``."""

    learning_rate: LearningRate | None = Field(default=None, description="Peak learning rate of AdamW.")
    batch_size: BatchSize | None = Field(default=None, description="Texts per step.")
    num_train_epochs: Epochs | None = Field(default=None, description="Epochs.")
    weight_decay: Weight | None = Field(default=None, description="AdamW weight decay.")


class TrainingConfig(OptimizationConfig):
    """Training of a student; in each trial, a searched argument overrides the key of the same name."""

    alpha: Share = Field(default=0.5, description="Weight of cross-entropy; 1 - alpha weighs distillation.")
    temperature: Temperature = Field(default=4.0, description="Softmax temperature of the distillation loss.")
    num_train_epochs: Epochs = 8
    learning_rate: LearningRate = 6e-4
    batch_size: BatchSize = 64
    eval_batch_size: BatchSize = Field(
        default=256, description="Texts per evaluation step (per_device_eval_batch_size)."
    )
    weight_decay: Weight = Field(default=0.01, description="AdamW weight decay.")
    max_length: MaxLength = Field(
        default="auto",
        description="Texts are truncated to this many tokens, including special tokens. `auto`: what 99.5 % of the "
        "training texts need, rounded up to a multiple of 8, at least 16, and at most what teacher and student accept "
        "and 8192.",
    )
    max_batch_tokens: MaxLength = Field(
        default="auto",
        description="Most tokens of a forward pass of several texts, padding included, where teacher and student are "
        "trained, texts labelled and trials evaluated: a batch with more is split, without a change of loss and "
        "gradients. `auto`: what half of the free memory holds.",
    )
    logits_precision: Literal["float32", "tf32", "bfloat16"] = Field(
        default="float32",
        description="Precision of the multiplications when the teacher labels texts. tf32 needs an NVIDIA GPU of "
        "compute capability 8.0 or more; it and bfloat16 change logits in the third digit.",
    )
    balance: Balance = Field(
        default="none",
        description="For labels with very different numbers of texts, also of a teacher trained here: `class_weights` "
        "weighs the cross-entropy of a text by the inverse frequency of its label; `sampler` draws every label "
        "equally often.",
    )
    seed: Seed = Field(default=42, description="Seed of shuffling and dropout. Default: the job's `seed`.")
    quantization_aware: QuantizationAwareConfig | None = Field(
        default=None,
        description="Train the last epochs with fake quantization, so that the student loses less when it is "
        "quantized.",
    )
    pruning: Annotated[PruningConfig | None, PRUNING_RULES.field(default="magnitude")] = Field(
        default=None, description="Prune weights during training. Default: no pruning."
    )
    losses: Annotated[dict[str, LossTerm], SectionsByName(with_sections)] = Field(
        default_factory=dict,
        description="Additional loss terms by name, each with its keys: `cosine: {weight: 1.0}`.",
    )
    arguments: dict[Name, Plain] = Field(
        default_factory=dict,
        max_length=200,
        description="Any other field of DistillationTrainingArguments, by name "
        "(for example hidden_loss_weight).",
    )
    by_kind: dict[Name, Annotated[KindTraining, Field()]] = Field(
        default_factory=dict,
        max_length=200,
        description="Where search.space has student.kind: values of learning_rate, batch_size, num_train_epochs or "
        "weight_decay for trials with a kind of student, such as `convolution: {learning_rate: 0.003}`. Default: what "
        "suits the kind, for keys that the job does not give.",
    )

    def of_kind(self, kind: str | None) -> Self:
        """Return the section with the values of ``by_kind`` for a kind of student, of which None has none."""
        own = self.by_kind.get(kind or "")
        return self if own is None else self.model_copy(update=own.model_dump(exclude_none=True))

    @property
    def batch_tokens(self) -> int | None:
        """Most tokens of a forward pass of several texts; None: derived from free memory."""
        return None if isinstance(self.max_batch_tokens, str) else self.max_batch_tokens

    @property
    def num_tokens(self) -> int:
        """Tokens to which texts are truncated.

        Raises:
            ValueError: ``max_length`` is ``auto``, which the checks of a job replace with a number.
        """
        if isinstance(self.max_length, str):
            raise ValueError(f"max_length is {AUTO}, and no texts were measured")
        return self.max_length
