"""The ``data`` section of a job's specification."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ..section import Count, Name, Section, Seed
from .added_texts_config import AugmentationConfig, UnlabelledConfig

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
