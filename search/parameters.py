"""The search space of one argument: a range, a choice or a fixed value, and a condition."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..errors import shown
from ..training.section import Integer, Name, Number, Section, Text, plain, scalar

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

_Scalar = Text | Integer | Number | bool
_NUM_SHOWN = 20  # values of a choice that a message lists
MOST_VALUES = 1000
"""Maximum number of values of a choice, and of arguments of a condition or a point."""


def _value(value: Any) -> Any:
    if isinstance(value, list) and not all(type(each) is int for each in value):
        raise ValueError("expected a list of whole numbers, as for student.layers and student.window_sizes")
    return plain(value) if isinstance(value, list) else scalar(value)


def _condition(value: Any) -> Any:
    return [scalar(each) for each in value] if isinstance(value, list) else scalar(value)


# The validators run first, so that a wrong value gives one error, not one for each type of the union.
Value = Annotated[_Scalar | Annotated[list[Integer], Field(max_length=MOST_VALUES)], BeforeValidator(_value)]
"""A value of an argument; a list for student.layers and student.window_sizes."""
Condition = Annotated[
    _Scalar | Annotated[list[_Scalar], Field(max_length=MOST_VALUES)], BeforeValidator(_condition)
]
"""The value of another argument, or several of them."""


class NotAcceptedError(ValueError):
    """A value is not among those that a parameter accepts."""


def as_category(value: Any) -> Any:
    """Return a value as an Optuna category: a list as its JSON."""
    return json.dumps(value) if isinstance(value, list) else value


def accepted_values(given: Condition) -> list[Any]:
    """Return a condition's values as a list."""
    return given if isinstance(given, list) else [given]


class _Searched(Section):
    """Base class of parameters: the condition, and methods that depend on the kind of values."""

    when: dict[Name, Condition] = Field(
        default_factory=dict,
        max_length=MOST_VALUES,
        description="Search it only if other arguments of the space have these values, for example {alpha: 0.0} or "
        "{optim: [sgd, adafactor]}; otherwise the value in `training` is used.",
    )

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Return whether the condition holds for these values of other arguments."""
        return all(
            other in values and values[other] in accepted_values(given) for other, given in self.when.items()
        )

    def end_values(self) -> list[Any]:
        """Return the two ends of a range, or every choice."""
        raise NotImplementedError

    def all_values(self) -> Iterable[Any]:
        """Return every value; for a range of floats, its two ends."""
        return self.end_values()

    def num_values(self) -> int:
        """Return the number of values; 1 for a range of floats."""
        return 1

    def single_value(self) -> Any:
        """Return the only value of the argument; None if it is searched."""
        values = self.end_values()
        return values[0] if all(value == values[0] for value in values) else None

    def distribution(self) -> BaseDistribution:
        """Return Optuna's distribution of an argument that is searched."""
        raise TypeError(f"{self!r} has one value")

    def suggest(self, trial: Trial, name: str) -> Any:
        """Have an Optuna trial suggest a value of the argument ``name``."""
        raise TypeError(f"{self!r} has one value")

    def contains(self, value: Any) -> bool:
        """Return whether a value from the configuration is included; 5.0 is not a whole number."""
        return value in self.end_values()

    def fit(self, value: Any) -> Any:
        """Convert a value for Optuna's distribution: 5.0 to 5 in a range of integers, a list to its JSON.

        Raises:
            NotAcceptedError: The value is not accepted; the message lists the accepted ones.
        """
        # 1 == True and 1 == 1.0 in Python, but a choice of true does not include 1.
        for each in map(as_category, self.end_values()):
            if each == as_category(value) and isinstance(each, bool) == isinstance(value, bool):
                return each
        raise NotAcceptedError(self.accepted())

    def accepted(self) -> str:
        """Return a description of the accepted values, such as ``accepted: whole numbers from 2 to 20``."""
        return f"accepted: {', '.join(shown(value) for value in self.end_values()[:_NUM_SHOWN])}"


class FloatRange(_Searched):
    """A floating-point number between two bounds, both included."""

    type: Literal["float"] = "float"
    low: Number = Field(description="Lowest value.")
    high: Number = Field(description="Highest value.")
    log: bool = Field(default=False, description="Sample on a logarithmic scale.")

    @model_validator(mode="after")
    def _ordered(self) -> FloatRange:
        return _ordered(self)

    def end_values(self) -> list[Any]:  # noqa: D102
        return [self.low, self.high]

    def distribution(self) -> BaseDistribution:  # noqa: D102
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log)

    def suggest(self, trial: Trial, name: str) -> Any:  # noqa: D102
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def contains(self, value: Any) -> bool:  # noqa: D102
        return isinstance(value, int | float) and self.low <= value <= self.high

    def fit(self, value: Any) -> float:  # noqa: D102
        return float(_number_within(self, value))

    def accepted(self) -> str:  # noqa: D102
        return f"accepted: numbers from {self.low} to {self.high}"


class IntRange(_Searched):
    """A whole number between two bounds, both included."""

    type: Literal["int"] = "int"
    low: Integer = Field(description="Lowest value.")
    high: Integer = Field(description="Highest value, included.")
    log: bool = Field(default=False, description="Sample on a logarithmic scale.")

    @model_validator(mode="after")
    def _ordered(self) -> IntRange:
        return _ordered(self)

    def end_values(self) -> list[Any]:  # noqa: D102
        return [self.low, self.high]

    def all_values(self) -> Iterable[Any]:  # noqa: D102
        return range(self.low, self.high + 1)

    def num_values(self) -> int:  # noqa: D102
        return self.high - self.low + 1

    def distribution(self) -> BaseDistribution:  # noqa: D102
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, log=self.log)

    def suggest(self, trial: Trial, name: str) -> Any:  # noqa: D102
        return trial.suggest_int(name, self.low, self.high, log=self.log)

    def contains(self, value: Any) -> bool:  # noqa: D102
        return isinstance(value, int) and self.low <= value <= self.high

    def fit(self, value: Any) -> int:  # noqa: D102
        number = _number_within(self, value)
        if number != int(number):
            raise NotAcceptedError(self.accepted())
        return int(number)

    def accepted(self) -> str:  # noqa: D102
        return f"accepted: whole numbers from {self.low} to {self.high}"


class Choice(_Searched):
    """One of a list of values."""

    type: Literal["choice"] = "choice"
    values: list[Value] = Field(
        min_length=1,
        max_length=MOST_VALUES,
        description="The values to choose from; lists for student.layers and student.window_sizes.",
    )

    def end_values(self) -> list[Any]:  # noqa: D102
        return self.values

    def num_values(self) -> int:  # noqa: D102
        return len(self.values)

    def distribution(self) -> BaseDistribution:  # noqa: D102
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution([as_category(value) for value in self.values])

    def suggest(self, trial: Trial, name: str) -> Any:  # noqa: D102
        found = trial.suggest_categorical(name, [as_category(value) for value in self.values])
        return next((each for each in self.values if as_category(each) == found), found)


class Fixed(_Searched):
    """One value that every trial uses; in a file also the bare value."""

    type: Literal["fixed"] = "fixed"
    value: Value = Field(description="The value.")

    def end_values(self) -> list[Any]:  # noqa: D102
        return [self.value]


def _number_within(bounds: FloatRange | IntRange, value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not bounds.low <= value <= bounds.high:
        raise NotAcceptedError(bounds.accepted())
    return value


def _ordered(bounds: Any) -> Any:
    if bounds.low > bounds.high:
        raise ValueError(f"low {bounds.low} is above high {bounds.high}")
    if bounds.log and bounds.low <= 0:
        raise ValueError(f"a logarithmic range needs a low above 0, given {bounds.low}")
    return bounds


def _bare_value(value: Any) -> Any:
    return {"type": "fixed", "value": value} if isinstance(value, str | int | float | bool | list) else value


Parameter = Annotated[
    Annotated[FloatRange | IntRange | Choice | Fixed, Field(discriminator="type")],
    BeforeValidator(_bare_value),
]
