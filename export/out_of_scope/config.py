"""The section ``export.out_of_scope`` of a job's specification."""

from __future__ import annotations

from pydantic import Field

from ...training.section import Name, Section, Share, ShareBelowOne
from ..runtime.scores import ScoreName


class OutOfScopeConfig(Section):
    """A threshold below which a text is out of scope, selected for each variant on the validation split."""

    score: ScoreName = Field(
        default="energy",
        description="Score compared with the threshold; all three are high for in-scope texts.",
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
