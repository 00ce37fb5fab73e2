"""Which values an Optuna distribution takes, and how that is said to a person."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..space.space import as_category

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


class NotAcceptedError(ValueError):
    """A distribution does not hold a value."""


def fit(distribution: BaseDistribution, value: Any) -> Any:
    """The value as the distribution holds it: a whole 5.0 as 5, a list as its JSON.

    Raises:
        NotAcceptedError: It does not hold that value; the message says which ones it holds.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        # 1 == True and 1 == 1.0, but a choice of true is none of 1.
        for choice in distribution.choices:
            if choice == as_category(value) and isinstance(choice, bool) == isinstance(value, bool):
                return choice
        raise NotAcceptedError(accepted(distribution))
    assert isinstance(distribution, IntDistribution | FloatDistribution), f"{distribution} is of another kind"
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not distribution.low <= value <= distribution.high:
        raise NotAcceptedError(accepted(distribution))
    if isinstance(distribution, FloatDistribution):
        return float(value)
    if value != int(value):
        raise NotAcceptedError(accepted(distribution))
    return int(value)


def accepted(distribution: BaseDistribution) -> str:
    """What a distribution takes, such as ``accepted: whole numbers from 2 to 20``."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return f"accepted: {', '.join(repr(choice) for choice in distribution.choices)}"
    assert isinstance(distribution, IntDistribution | FloatDistribution), f"{distribution} is of another kind"
    kind = "whole numbers" if isinstance(distribution, IntDistribution) else "numbers"
    return f"accepted: {kind} from {distribution.low} to {distribution.high}"
