"""Data sources: the registry, and the section ``data`` without the keys that only one source has."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from ...section import Count, Name, Section, Seed
from ...section_registry import SectionRegistry
from ..added_texts_config import AugmentationConfig, UnlabelledConfig
from ..rows import RawSplit


class DataConfig(Section):
    """The source of the labelled texts, and the keys that all sources have."""

    source: str = Field(default="embedded", description="Where the labelled texts come from.")
    out_of_scope_label: Name | None = Field(
        default=None,
        description="Label of out-of-scope texts. Default: `oos` for embedded, clinc_json and clinc/clinc_oos; none "
        "for other data.",
    )
    max_train_examples: Count | None = Field(
        default=None,
        description="Use only this many training texts, a stratified sample with `seed`.",
    )
    seed: Seed = Field(default=0, description="Seed of that sample. Default: the job's `seed`.")
    unlabelled: UnlabelledConfig | None = Field(
        default=None, description="Unlabelled texts, which the student learns from the teacher's logits only."
    )
    augmentation: AugmentationConfig = Field(
        default_factory=AugmentationConfig,
        description="Texts generated from training texts, also learned from the teacher's logits only.",
    )

    local_files: ClassVar[tuple[str, ...]] = ()
    """Required keys that name a file; these files are uploaded with a submitted job."""
    is_remote: ClassVar[bool] = False
    """Whether reading may need a network."""

    @property
    def default_out_of_scope_label(self) -> str | None:
        """Out-of-scope label that is used if the section names none and the data has it."""
        return None

    def read(self) -> list[RawSplit]:
        """Return the unchecked train, validation and test splits, in that order.

        Raises:
            DataError: The data cannot be read; gives file, row and remedy, for all files together.
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

    text_column: Name = Field(default="text", description="hub, files: column with the text.")
    label_column: Name = Field(
        default="label",
        description="hub, files: column with the label. If a hub dataset has no `label` but exactly one column of "
        "classes (`intent` in clinc/clinc_oos), that column is read.",
    )


DATA_SOURCES: SectionRegistry[DataConfig] = SectionRegistry("source")
