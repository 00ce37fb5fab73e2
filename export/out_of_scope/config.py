"""The sections ``export.out_of_scope`` and ``export.label_thresholds`` of a job's specification."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ...training.section import Count, Name, Section, Share, ShareBelowOne
from ..runtime.scores import ScoreName

_AT_LEAST = 0.9


class OutOfScopeConfig(Section):
    """A threshold below which a text is out of scope, selected for each variant on the validation split."""

    score: ScoreName | None = Field(
        default=None,
        description="Score compared with the threshold, high for in-scope texts. Default: margin where training "
        "and validation texts have the out-of-scope label, otherwise energy.",
    )
    in_scope_weight: Share = Field(
        default=0.75,
        description="w of the goal, which is to maximise w · in-scope accuracy + (1 - w) · out-of-scope recall.",
    )
    max_in_scope_refused: ShareBelowOne | None = Field(
        default=None,
        description="Instead of that goal: reject at most this share of the in-scope texts.",
    )
    label: Name | None = Field(
        default=None,
        description="Label of rejected texts, if the data has no out-of-scope label.",
    )


class LabelThresholdsConfig(Section):
    """A threshold for each label of the task multi_label, chosen for each variant on the validation split."""

    goal: Literal["f1", "precision", "recall"] = Field(
        default="f1",
        description="f1: each label's threshold has the highest F1; precision: the highest recall with a precision of "
        "`at_least`; recall: the highest precision with a recall of `at_least`.",
    )
    at_least: Share = Field(
        default=_AT_LEAST, description="precision, recall: the share that each label should reach."
    )
    min_texts: Count = Field(
        default=5,
        description="Validation texts of a label below which its threshold stays at one half.",
    )

    @model_validator(mode="after")
    def _at_least_of_a_share(self) -> LabelThresholdsConfig:
        if self.goal == "f1" and "at_least" in self.model_fields_set and self.at_least != _AT_LEAST:
            raise ValueError(
                f"at_least: {self.at_least:g} given, but goal is f1; set goal to precision or recall, or remove it"
            )
        return self
