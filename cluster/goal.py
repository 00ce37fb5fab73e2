"""What the out-of-scope thresholds of a job are chosen for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..export.thresholds import ScopeGoal, scope_goal
from .config import JobConfig

if TYPE_CHECKING:
    from ..training.data import TextData


def goal_of(config: JobConfig, data: TextData) -> ScopeGoal | None:
    """The goal that specification and data give; None where there is no threshold to choose.

    Raises:
        ConfigError: They do not fit together.
    """
    outside = data.out_of_scope_id
    num_outside = 0 if outside is None else data.splits["validation"]["label"][:].count(outside)
    return scope_goal(config.export.out_of_scope, data.out_of_scope_label, data.label_names, num_outside)
