"""The values of one argument: a range, a choice or a fixed value, and where it is searched at all."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..training.config import Section

Value = str | int | float | bool


class _Searched(Section):
    """What a searched argument has, whatever its values are."""

    when: dict[str, Value | list[Value]] = Field(
        default_factory=dict,
        description="Search it only where other arguments of the space have these values, for example "
        "{alpha: 0.0} or {optim: [sgd, adafactor]}; elsewhere training's own value stands.",
    )


class FloatRange(_Searched):
    """A floating-point number between two bounds, both included."""

    type: Literal["float"] = "float"
    low: float = Field(description="Lowest value.")
    high: float = Field(description="Highest value.")
    log: bool = Field(default=False, description="Sample on a logarithmic scale.")

    @model_validator(mode="after")
    def _ordered(self) -> FloatRange:
        return _ordered(self)


class IntRange(_Searched):
    """A whole number between two bounds, both included."""

    type: Literal["int"] = "int"
    low: int = Field(description="Lowest value.")
    high: int = Field(description="Highest value, included.")
    log: bool = Field(default=False, description="Sample on a logarithmic scale.")

    @model_validator(mode="after")
    def _ordered(self) -> IntRange:
        return _ordered(self)


class Choice(_Searched):
    """One of a list of values."""

    type: Literal["choice"] = "choice"
    values: list[Value | list[int]] = Field(
        min_length=1, description="The values to choose from; lists for student.layers."
    )


class Fixed(_Searched):
    """One value that every trial uses; a bare value in the file means this."""

    type: Literal["fixed"] = "fixed"
    value: Value | list[int] = Field(description="The value.")


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
