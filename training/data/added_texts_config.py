"""The sections of ``data`` that add unlabelled texts: the user's own, and augmentations of the training texts."""

from __future__ import annotations

from pydantic import Field, model_validator

from ..section import Count, Name, Probability, Section, Seed


class UnlabelledConfig(Section):
    """Unlabelled texts that the teacher labels, from a file or a hub dataset."""

    path: Name | None = Field(
        default=None,
        description="A .txt file with one text per line, or a column of a file in any format of `data.train`.",
    )
    dataset: Name | None = Field(
        default=None, description="Instead of `path`: repository id of a hub dataset."
    )
    dataset_config: Name | None = Field(default=None, description="Configuration of `dataset`.")
    split: Name = Field(default="train", description="Split of `dataset` to read.")
    text_column: Name = Field(default="text", description="Column with the text (not for a .txt file).")
    text_pair_column: Name | None = Field(
        default=None, description="Column with the second text, where `data.text_pair_column` is set."
    )
    count: Count | None = Field(default=None, description="Use only this many, sampled with `seed`.")
    seed: Seed = Field(default=0, description="Seed of that sample. Default: the job's `seed`.")

    @model_validator(mode="after")
    def _one_source(self) -> UnlabelledConfig:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("set exactly one of path and dataset")
        if self.text_pair_column is not None and str(self.path).lower().endswith(".txt"):
            raise ValueError(
                f"path: {self.path!r} given, a file with one text per line, but text_pair_column is set; use a file "
                "with columns, such as .csv or .jsonl"
            )
        return self


class SplicedConfig(Section):
    """How many texts to generate from the training texts."""

    count: Count = Field(description="Number of texts.")
    candidates: Count | None = Field(
        default=None,
        description="Number of texts to generate and label, of which the `count` are used that the teacher is least "
        "certain about. Default: `count`.",
    )
    seed: Seed = Field(default=0, description="Seed of the generation. Default: the job's `seed`.")

    @model_validator(mode="after")
    def _enough_candidates(self) -> SplicedConfig:
        if self.candidates is not None and self.candidates < self.count:
            raise ValueError(
                f"candidates: {self.candidates} given, but {self.count} of them are to be used (count); accepted: "
                f"{self.count} or more"
            )
        return self

    @property
    def num_generated(self) -> int:
        """Number of texts to generate."""
        return self.count if self.candidates is None else self.candidates


class DroppedConfig(SplicedConfig):
    """Training texts with some of their words dropped."""

    share: Probability = Field(default=0.2, description="Probability that a word is dropped.")


class MaskedConfig(SplicedConfig):
    """Training texts with some of their word pieces masked."""

    share: Probability = Field(default=0.15, description="Probability that a word piece is masked.")


class AugmentationConfig(Section):
    """Texts generated from the training texts, labelled only by the teacher's logits."""

    spliced: SplicedConfig | None = Field(
        default=None, description="Texts joined from the beginning of one text and the end of another."
    )
    dropped: DroppedConfig | None = Field(default=None, description="Texts with some words dropped.")
    masked: MaskedConfig | None = Field(default=None, description="Texts with some word pieces masked.")

    @property
    def num_selected(self) -> dict[str, int]:
        """The number of texts to select, by kind, of those of which more are generated than used."""
        sections: dict[str, SplicedConfig | None] = dict(self)
        return {
            kind: each.count for kind, each in sections.items() if each and each.num_generated > each.count
        }
