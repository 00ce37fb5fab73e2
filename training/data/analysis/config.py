"""The section ``data.diagnostics`` of a job's specification."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from ...section import Epochs, Section

NumFolds = Annotated[int, Field(ge=2, le=10)]


class DiagnosticsConfig(Section):
    """How to find training texts that are probably mislabelled."""

    cross_fit: NumFolds | None = Field(
        default=None,
        description="Number of folds. For each fold, the teacher is briefly trained on the training texts of the other "
        "folds, and then labels those of this one. Default: no folds; a teacher agrees with most labels that it was "
        "trained on.",
    )
    cross_fit_epochs: Epochs | None = Field(
        default=None,
        description="Epochs of each of these trainings. Default: half the epochs of a fine-tuned teacher, or all "
        "epochs of a teacher from scratch.",
    )

    @model_validator(mode="after")
    def _epochs_of_folds(self) -> DiagnosticsConfig:
        if self.cross_fit_epochs is not None and self.cross_fit is None:
            raise ValueError(
                f"cross_fit_epochs: {self.cross_fit_epochs} given without cross_fit; set cross_fit to a number of "
                "folds, 2 to 10, or remove it"
            )
        return self
