"""The values of one argument: a range, a choice or a fixed value, and where it is searched at all."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..training.section import Integer, Name, Number, Section, Text, plain, scalar

_Scalar = Text | Integer | Number | bool
MOST_VALUES = 1000
"""Values of a choice, and arguments of a condition or a point."""


def _value(value: Any) -> Any:
    if isinstance(value, list) and not all(type(each) is int for each in value):
        raise ValueError("expected a list of whole numbers, the layers of student.layers")
    return plain(value) if isinstance(value, list) else scalar(value)


def _condition(value: Any) -> Any:
    return [scalar(each) for each in value] if isinstance(value, list) else scalar(value)


# The validators come first, so that a wrong value has one fault and not one for each type that it could have.
Value = Annotated[_Scalar | Annotated[list[Integer], Field(max_length=MOST_VALUES)], BeforeValidator(_value)]
"""A value of an argument; a list of layers for student.layers."""
Condition = Annotated[
    _Scalar | Annotated[list[_Scalar], Field(max_length=MOST_VALUES)], BeforeValidator(_condition)
]
"""The value of another argument, or several of them."""


class _Searched(Section):
    """What a searched argument has, whatever its values are."""

    when: dict[Name, Condition] = Field(
        default_factory=dict,
        max_length=MOST_VALUES,
        description="Search it only where other arguments of the space have these values, for example "
        "{alpha: 0.0} or {optim: [sgd, adafactor]}; elsewhere training's own value stands.",
    )


class FloatRange(_Searched):
    """A floating-point number between two bounds, both included."""

    type: Literal["float"] = "float"
    low: Number = Field(description="Lowest value.")
    high: Number = Field(description="Highest value.")
    log: bool = Field(default=False, description="Sample on a logarithmic scale.")

    @model_validator(mode="after")
    def _ordered(self) -> FloatRange:
        return _ordered(self)


class IntRange(_Searched):
    """A whole number between two bounds, both included."""

    type: Literal["int"] = "int"
    low: Integer = Field(description="Lowest value.")
    high: Integer = Field(description="Highest value, included.")
    log: bool = Field(default=False, description="Sample on a logarithmic scale.")

    @model_validator(mode="after")
    def _ordered(self) -> IntRange:
        return _ordered(self)


class Choice(_Searched):
    """One of a list of values."""

    type: Literal["choice"] = "choice"
    values: list[Value] = Field(
        min_length=1,
        max_length=MOST_VALUES,
        description="The values to choose from; lists for student.layers.",
    )


class Fixed(_Searched):
    """One value that every trial uses; a bare value in the file means this."""

    type: Literal["fixed"] = "fixed"
    value: Value = Field(description="The value.")


def _ordered(bounds: Any) -> Any:
    if bounds.low > bounds.high:
        raise ValueError(f"low {bounds.low} is above high {bounds.high}")
    if bounds.log and bounds.low <= 0:
        raise ValueError(f"a logarithmic range needs low above 0, given {bounds.low}")
    return bounds


def _bare_value(value: Any) -> Any:
    return {"type": "fixed", "value": value} if isinstance(value, str | int | float | bool | list) else value


Parameter = Annotated[
    Annotated[FloatRange | IntRange | Choice | Fixed, Field(discriminator="type")],
    BeforeValidator(_bare_value),
]
