"""The section ``data.diagnostics`` of a job's specification."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from ...section import Epochs, Section

NumFolds = Annotated[int, Field(ge=2, le=10)]


class DiagnosticsConfig(Section):
    """How training texts that are probably labelled wrong are found."""

    cross_fit: NumFolds | None = Field(
        default=None,
        description="Number of folds: as many short trainings of the teacher, each without one fold of the training "
        "texts, which it then labels. Default: no folds; a teacher agrees with most labels that it was trained on.",
    )
    cross_fit_epochs: Epochs | None = Field(
        default=None,
        description="Epochs of each of these trainings. Default: half of a fine-tuned teacher's, all of those of a "
        "teacher from scratch.",
    )

    @model_validator(mode="after")
    def _epochs_of_folds(self) -> DiagnosticsConfig:
        if self.cross_fit_epochs is not None and self.cross_fit is None:
            raise ValueError(
                f"cross_fit_epochs: {self.cross_fit_epochs} given without cross_fit; set cross_fit to a number of "
                "folds, 2 to 10, or remove it"
            )
        return self
