"""The ``search`` section of a job's specification."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..training.config import Section


class FloatRange(Section):
    """A floating-point number between two bounds, both included."""

    type: Literal["float"] = "float"
    low: float = Field(description="Lowest value.")
    high: float = Field(description="Highest value.")
    log: bool = Field(default=False, description="Sample on a logarithmic scale.")

    @model_validator(mode="after")
    def _ordered(self) -> FloatRange:
        return _ordered(self)


class IntRange(Section):
    """A whole number between two bounds, both included."""

    type: Literal["int"] = "int"
    low: int = Field(description="Lowest value.")
    high: int = Field(description="Highest value, included.")
    log: bool = Field(default=False, description="Sample on a logarithmic scale.")

    @model_validator(mode="after")
    def _ordered(self) -> IntRange:
        return _ordered(self)


class Choice(Section):
    """One of a list of values."""

    type: Literal["choice"] = "choice"
    values: list[str | int | float | bool] = Field(min_length=1, description="The values to choose from.")


class Fixed(Section):
    """One value that every trial uses; a bare value in the file means this."""

    type: Literal["fixed"] = "fixed"
    value: str | int | float | bool = Field(description="The value.")


def _ordered(bounds: Any) -> Any:
    if bounds.low > bounds.high:
        raise ValueError(f"low {bounds.low} is above high {bounds.high}")
    if bounds.log and bounds.low <= 0:
        raise ValueError(f"a logarithmic range needs low above 0, given {bounds.low}")
    return bounds


def _bare_value(value: Any) -> Any:
    return {"type": "fixed", "value": value} if isinstance(value, str | int | float | bool) else value


Parameter = Annotated[
    Annotated[FloatRange | IntRange | Choice | Fixed, Field(discriminator="type")],
    BeforeValidator(_bare_value),
]


def _default_space() -> dict[str, Parameter]:
    return {
        "alpha": FloatRange(low=0.0, high=1.0),
        "temperature": IntRange(low=2, high=20),
        "num_train_epochs": IntRange(low=5, high=10),
    }


class SearchConfig(Section):
    """Which values to try, and how many trials."""

    num_trials: int = Field(default=20, ge=1, description="Trials.")
    metric: str = Field(
        default="validation_accuracy", description="Metric of the validation split to optimise."
    )
    mode: Literal["max", "min"] = Field(default="max", description="max: higher is better.")
    seed: int = Field(
        default=42, description="Seed of the sampler: the same seed gives the same suggestions."
    )
    num_startup_trials: int = Field(default=10, ge=1, description="Random trials before TPE begins to model.")
    max_concurrent_trials: int | None = Field(
        default=None,
        ge=1,
        description="Most trials at a time. Default: what the resources hold, but no more than a quarter of "
        "num_trials (at least 2), so that later suggestions learn from earlier results; what the resources "
        "hold when num_startup_trials makes all trials random.",
    )
    space: dict[str, Parameter] = Field(
        default_factory=_default_space,
        description="Argument name -> range, choice or fixed value. Named arguments are added to, "
        "or take the place of, the default three (alpha, temperature, num_train_epochs).",
    )

    @model_validator(mode="before")
    @classmethod
    def _over_defaults(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("space"), dict):
            return {**values, "space": {**_default_space(), **values["space"]}}
        return values
