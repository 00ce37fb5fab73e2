"""The section ``export.out_of_scope`` of a job's specification."""

from __future__ import annotations

from pydantic import Field

from ...training.section import Name, Section, Share, ShareBelowOne
from ..runtime.scores import ScoreName


class OutOfScopeConfig(Section):
    """A threshold below which a text is told to be out of scope, chosen for each variant on the validation split."""

    score: ScoreName = Field(
        default="energy",
        description="What is held against the threshold; all three are high for known texts.",
    )
    in_scope_weight: Share = Field(
        default=0.75,
        description="w of the goal: the most of w · in-scope accuracy + (1 - w) · out-of-scope recall.",
    )
    max_in_scope_refused: ShareBelowOne | None = Field(
        default=None,
        description="In place of that goal: refuse at most this share of the in-scope texts.",
    )
    label: Name | None = Field(
        default=None,
        description="What refused texts are called where the data have no out-of-scope label.",
    )
