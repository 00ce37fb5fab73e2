"""Data sources: the registry, and the section ``data`` without the keys that only one source has."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from ...registry import SectionRegistry
from ...section import Count, Name, Section, Seed
from ..added_texts_config import AugmentationConfig, UnlabelledConfig
from ..rows import RawSplit


class DataConfig(Section):
    """Where the labelled texts come from: a source, its own keys, and those that every source has."""

    source: str = Field(default="embedded", description="Where the labelled texts come from.")
    out_of_scope_label: Name | None = Field(
        default=None,
        description="Name of the label for texts outside every intent. "
        "Default: `oos` for embedded, clinc_json and clinc/clinc_oos; none for other data.",
    )
    max_train_examples: Count | None = Field(
        default=None,
        description="Use only this many training texts, drawn by `seed` so that every label keeps its share.",
    )
    seed: Seed = Field(default=0, description="Seed of that draw. Default: the job's `seed`.")
    unlabelled: UnlabelledConfig | None = Field(
        default=None, description="More texts, which the student learns from the teacher's logits alone."
    )
    augmentation: AugmentationConfig = Field(
        default_factory=AugmentationConfig, description="Texts made of training texts, learnt likewise."
    )

    local_files: ClassVar[tuple[str, ...]] = ()
    """Keys that name a file; a submitted job takes those files along. All of them are needed."""
    is_remote: ClassVar[bool] = False
    """Whether reading may need a network."""

    @property
    def default_out_of_scope_label(self) -> str | None:
        """The out-of-scope label where the section names none and the data has it."""
        return None

    def read(self) -> list[RawSplit]:
        """Return train, validation and test, in that order, as the source holds them.

        Raises:
            DataError: What is wrong, by file and row, with its remedy; the faults of several files come together.
        """
        raise NotImplementedError

    @model_validator(mode="after")
    def _complete(self) -> DataConfig:
        missing = [name for name in self.local_files if getattr(self, name) is None]
        if missing:
            raise ValueError(f"source {self.source!r} needs {', '.join(missing)}")
        return self


class ColumnsConfig(DataConfig):
    """A source whose rows have named columns."""

    text_column: Name = Field(default="text", description="hub, files: column that holds the text.")
    label_column: Name = Field(
        default="label",
        description="hub, files: column that holds the label. Where a hub dataset has no `label` and "
        "just one column of classes (`intent` in clinc/clinc_oos), that one is read.",
    )


DATA_SOURCES: SectionRegistry[DataConfig] = SectionRegistry("source")
