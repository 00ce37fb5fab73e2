"""Data sources: the registry, and the section ``data`` without the keys that only one source has."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from ...section import Count, Name, Probability, Section, Seed, Text
from ...section_registry import SectionRegistry
from ..added_texts_config import AugmentationConfig, UnlabelledConfig
from ..analysis.config import DiagnosticsConfig
from ..label_kinds.base import LabelFormat
from ..rows import RawSplit
from .columns import DEFAULT_LABEL_COLUMN, Columns, template_columns

DEFAULT_TEXT_COLUMN = "text"


class SplitConfig(Section):
    """How splits that the data lacks are held out of train."""

    validation: Probability = Field(
        default=0.1, description="Share of train that is held out if there is no validation split."
    )
    test: Probability = Field(
        default=0.1, description="Share of train that is held out if there is no test split."
    )
    seed: Seed = Field(default=0, description="Seed of the division. Default: the job's `seed`.")

    @model_validator(mode="after")
    def _leaves_train(self) -> SplitConfig:
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation {self.validation:g} and test {self.test:g} given, which leaves no text to train; lower "
                "them to less than 1 together"
            )
        return self


class DataConfig(Section):
    """The source of the labelled texts, and the keys that all sources have."""

    source: str = Field(default="embedded", description="Where the labelled texts come from.")
    out_of_scope_label: Name | None = Field(
        default=None,
        description="Label of out-of-scope texts. Default: `oos` for embedded, clinc_json and clinc/clinc_oos; none "
        "for other data.",
    )
    licence: Name | None = Field(
        default=None,
        description="Licence of the data, such as cc-by-4.0, for the model card. Default: unknown.",
    )
    max_train_examples: Count | None = Field(
        default=None,
        description="Use only this many training texts, a stratified sample with `seed`.",
    )
    seed: Seed = Field(default=0, description="Seed of that sample. Default: the job's `seed`.")
    split: SplitConfig = Field(
        default_factory=SplitConfig,
        description="How a missing validation or test split is held out of train: stratified by label, equal texts "
        "together.",
    )
    min_examples_per_label: Count = Field(
        default=1, description="Number of texts, in all splits, below which a label is rare."
    )
    rare: Literal["keep", "drop", "other"] = Field(
        default="keep",
        description="Rare labels: keep them with a warning, drop them and their texts, or merge them into the label "
        "`other`.",
    )
    unlabelled: UnlabelledConfig | None = Field(
        default=None, description="Unlabelled texts, which the student learns from the teacher's logits only."
    )
    augmentation: AugmentationConfig = Field(
        default_factory=AugmentationConfig,
        description="Texts generated from training texts, also learned from the teacher's logits only.",
    )
    diagnostics: DiagnosticsConfig = Field(
        default_factory=DiagnosticsConfig, description="How to find labels that are probably wrong."
    )

    local_files: ClassVar[tuple[str, ...]] = ()
    """Required keys that name a file or folder; these are uploaded with a submitted job."""
    optional_files: ClassVar[tuple[str, ...]] = ()
    """Keys that may name a file or folder; these are uploaded too."""
    is_remote: ClassVar[bool] = False
    """Whether reading may need a network."""

    @property
    def label_format(self) -> LabelFormat:
        """Where the labels are, and how they are written."""
        return LabelFormat()

    @property
    def takes_pairs(self) -> bool:
        """Whether each text is a pair of texts."""
        return False

    @property
    def default_out_of_scope_label(self) -> str | None:
        """Out-of-scope label that is used if the section names none and the data has this one."""
        return None

    def read(self) -> list[RawSplit]:
        """Return the unchecked train split, and the validation and test splits if there are any.

        Raises:
            DataError: The data cannot be read; gives file, row and remedy, for all files together.
        """
        raise NotImplementedError

    @model_validator(mode="after")
    def _unlabelled_has_pairs_too(self) -> DataConfig:
        column = None if self.unlabelled is None else self.unlabelled.text_pair_column
        if self.unlabelled is None or (column is not None) == self.takes_pairs:
            return self
        if column is None:
            raise ValueError(
                "unlabelled: texts are pairs (text_pair_column), but unlabelled names no column of second texts; set "
                "unlabelled.text_pair_column, or remove unlabelled"
            )
        raise ValueError(
            f"unlabelled.text_pair_column: {column!r} given, but the labelled texts are single; set text_pair_column, "
            "or remove it"
        )

    @model_validator(mode="after")
    def _complete(self) -> DataConfig:
        missing = [name for name in self.local_files if getattr(self, name) is None]
        if missing:
            raise ValueError(f"source {self.source!r} needs {', '.join(missing)}")
        return self


Separator = Annotated[str, Field(min_length=1, max_length=20)]


def _valid_template(template: str) -> str:
    template_columns(template)
    return template


class ColumnsConfig(DataConfig):
    """A source whose rows have named columns."""

    text_column: Name = Field(
        default=DEFAULT_TEXT_COLUMN,
        description="hub, files: column with the text. Default of the task question_answering: `question`.",
    )
    text_pair_column: Name | None = Field(
        default=None,
        description="hub, files: column with the second text, where a model reads pairs of texts, such as a premise "
        "and a hypothesis. Long pairs are truncated token by token at the end of the longer text. Default of the task "
        "question_answering: `context`.",
    )
    text_template: Annotated[Text, AfterValidator(_valid_template)] | None = Field(
        default=None,
        description="hub, files: instead of `text_column`, a text with columns in braces, such as "
        '"{title}: {body}".',
    )
    label_column: Name = Field(
        default=DEFAULT_LABEL_COLUMN,
        description="hub, files: column with the label, the labels or the number. If a hub dataset has no `label` but "
        "exactly one column of classes (`intent` in clinc/clinc_oos), that column is read. Default of the task "
        "question_answering: `answers`.",
    )
    label_columns: Annotated[list[Name], Field(max_length=2000)] | None = Field(
        default=None,
        description="hub, files: instead of `label_column`, several columns: of 0 and 1, one for each label of the "
        "task multi_label, of numbers for the task regression, or of the answer's text and its first character for the "
        "task question_answering.",
    )
    label_separator: Separator | None = Field(
        default=None,
        description="hub, files: what stands between the labels of one text in a string, such as `;`, for the task "
        "multi_label. Default: `label_column` holds lists.",
    )
    group_column: Name | None = Field(
        default=None,
        description="hub, files: column whose equal values, such as one customer, stay together when a split is held "
        "out.",
    )
    id_column: Name | None = Field(
        default=None,
        description="hub, files: column with an id of each row, by which `teacher.logits.id_column` joins a file.",
    )
    slice_columns: Annotated[list[Name], Field(max_length=20)] = Field(
        default_factory=list,
        description="hub, files: columns, such as a channel or a language, for each of whose values the report has the "
        "accuracy on the test split beside the teacher's. No model reads them.",
    )

    @property
    def label_format(self) -> LabelFormat:
        """Where the labels are, and how they are written."""
        return LabelFormat(self.label_column, tuple(self.label_columns or ()), self.label_separator)

    @property
    def columns(self) -> Columns:
        """The columns that are read."""
        several = self.label_format.columns
        return Columns(
            None if self.text_template is not None else self.text_column,
            None if several else self.label_column,
            self.group_column,
            self.text_template,
            slices=tuple(dict.fromkeys(self.slice_columns)),
            labels=several,
            pair=self.text_pair_column,
            id=self.id_column,
        )

    @property
    def takes_pairs(self) -> bool:
        """Whether each text is a pair of texts."""
        return self.text_pair_column is not None

    @model_validator(mode="after")
    def _one_place_of_labels(self) -> ColumnsConfig:
        columns = self.label_columns
        if columns is None:
            return self
        twice = next((name for name in columns if columns.count(name) > 1), None)
        if twice is not None or not columns:
            given = f"{twice!r} twice" if twice is not None else "no column"
            raise ValueError(f"label_columns: {given} given; name each column with a label or number once")
        if self.label_column != DEFAULT_LABEL_COLUMN:
            raise ValueError("set one of label_column and label_columns, not both")
        return self

    @model_validator(mode="after")
    def _one_text(self) -> ColumnsConfig:
        if self.text_template is not None and self.text_column != DEFAULT_TEXT_COLUMN:
            raise ValueError("set one of text_column and text_template, not both")
        return self

    @model_validator(mode="after")
    def _two_texts(self) -> ColumnsConfig:
        pair = self.text_pair_column
        if pair is not None and self.text_template is not None:
            raise ValueError(
                f"text_pair_column: {pair!r} given together with text_template; set one of them: a template makes one "
                "text of several columns"
            )
        if pair in (self.text_column, *self.label_format.columns) or pair == self.label_column:
            raise ValueError(
                f"text_pair_column: {pair!r} given, which is the column of the text or label as well; set it to the "
                "column with the second text"
            )
        return self


DATA_SOURCES: SectionRegistry[DataConfig] = SectionRegistry("source")
