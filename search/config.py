"""The ``search`` section of a job's specification."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ..training.section import Amount, Name, Number, NumTrials, PositiveAmount, Section, Seed
from .parameters import MOST_VALUES, FloatRange, IntRange, Parameter, Value
from .samplers.base import SAMPLERS, Sampler
from .samplers.tpe import Tpe
from .schedulers.base import EARLY_STOPPING, EarlyStopping
from .schedulers.none import NoEarlyStopping
from .student_arguments import with_implied_conditions


class Objective(Section):
    """A further metric to optimise besides ``search.metric``."""

    metric: Name = Field(description="Name of the metric, for example latency_ms.")
    mode: Literal["max", "min"] = Field(description="max: higher is better.")

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Optuna's name of the direction."""
        return "maximize" if self.mode == "max" else "minimize"


class Constraint(Section):
    """A bound that the selected trial must satisfy; in a file also ``latency_ms <= 1.0``."""

    metric: Name = Field(description="Name of the metric.")
    sense: Literal["<=", ">="] = Field(description="At most, or at least.")
    bound: Number = Field(description="The bound.")

    def __str__(self) -> str:
        return f"{self.metric} {self.sense} {self.bound:g}"

    def excess(self, metrics: dict[str, Any]) -> float:
        """Return by how much the constraint is violated; 0 or less if it holds."""
        difference = metrics[self.metric] - self.bound
        return difference if self.sense == "<=" else -difference


def _parsed_constraint(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = re.fullmatch(
        r"\s*(\S(?:.*\S)?)\s*(<=|>=)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*", value
    )
    if found is None:
        raise ValueError("expected `metric <= number` or `metric >= number`, for example latency_ms <= 1.0")
    return {"metric": found[1], "sense": found[2], "bound": float(found[3])}


class Budget(Section):
    """Conditions that end a search before all trials are done; trials still running then end as pruned."""

    wall_time_s: PositiveAmount | None = Field(
        default=None, description="Search time in seconds, over all attempts."
    )
    target_value: Number | None = Field(
        default=None, description="End the search once the metric reaches this value."
    )
    patience: NumTrials | None = Field(
        default=None,
        description="Number of consecutive trials without a better value after which the search ends.",
    )


def _default_space() -> dict[str, Parameter]:
    return {
        "alpha": FloatRange(low=0.0, high=1.0),
        "temperature": IntRange(low=2, high=20),
        "num_train_epochs": IntRange(low=5, high=10),
    }


class SearchConfig(Section):
    """The search space and the number of trials."""

    num_trials: NumTrials = Field(default=20, description="Number of trials.")
    metric: Name = Field(
        default="validation_accuracy",
        description="Metric of the validation split to optimise. Default: the job's `metric`, as validation_METRIC; "
        "validation_accuracy_with_threshold if the job names none and export.choose.accuracy is with_threshold.",
    )
    mode: Literal["max", "min"] = Field(default="max", description="max: higher is better.")
    seed: Seed = Field(
        default=42,
        description="Seed of the sampler, whose suggestions follow from it. Default: the job's `seed`.",
    )
    num_startup_trials: NumTrials = Field(
        default=10,
        description="Random trials before the sampler starts to model results; nsga2 uses its population_size instead.",
    )
    max_concurrent_trials: NumTrials | None = Field(
        default=None,
        description="Maximum number of parallel trials. Default: as many as the resources allow, up to a quarter of "
        "num_trials (at least 2), or half of them on GPUs, so that later suggestions learn from earlier results; "
        "no such limit applies if the sampler ignores results, as random and qmc do, or if num_startup_trials makes "
        "all trials random.",
    )
    sampler: Annotated[Sampler, SAMPLERS.field(bare_word=True)] = Field(
        default_factory=Tpe,
        description=f"How the next trial is suggested: {', '.join(SAMPLERS.names)}; or with parameters: "
        "{type: nsga2, ...}.",
    )
    scheduler: Annotated[EarlyStopping, EARLY_STOPPING.field(bare_word=True)] = Field(
        default_factory=NoEarlyStopping,
        description=f"Early stopping of poor trials: {', '.join(EARLY_STOPPING.names)}; or with parameters: "
        "{type: asha, ...}.",
    )
    objectives: list[Objective] = Field(
        default_factory=list,
        max_length=MOST_VALUES,
        description="Further metrics to optimise with the first; `choose` then selects from the Pareto front.",
    )
    constraints: list[Annotated[Constraint, BeforeValidator(_parsed_constraint)]] = Field(
        default_factory=list,
        max_length=MOST_VALUES,
        description="Bounds that the best trial must satisfy, for example [latency_ms <= 1.0].",
    )
    choose: Amount = Field(
        default=0.005,
        description="With several objectives: select from the Pareto front, among trials whose metric is at most "
        "this far from the best, the best one in the second objective.",
    )
    budget: Budget = Field(default_factory=Budget, description="Conditions that end the search early.")
    max_failed_trials: int | None = Field(
        default=None,
        ge=0,
        le=10**6,
        description="The search ends if more trials fail. Default: a quarter of num_trials, at least 3.",
    )
    points: list[Annotated[dict[Name, Value], Field(max_length=MOST_VALUES)]] = Field(
        default_factory=list,
        max_length=10_000,
        description="Points to try first, one trial each; arguments that a point omits are sampled.",
    )
    warm_start: Name | None = Field(
        default=None, description="Run whose finished trials the searcher learns from before it starts."
    )
    space: Annotated[dict[Name, Parameter], AfterValidator(with_implied_conditions)] = Field(
        default_factory=_default_space,
        max_length=MOST_VALUES,
        description="Argument name -> range, choice or fixed value. They extend or replace the default three "
        "(alpha, temperature, num_train_epochs).",
    )

    @property
    def all_objectives(self) -> list[Objective]:
        """All objectives, ``metric`` first."""
        return [Objective(metric=self.metric, mode=self.mode), *self.objectives]

    @model_validator(mode="before")
    @classmethod
    def _over_defaults(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("space"), dict):
            return {**values, "space": {**_default_space(), **values["space"]}}
        return values
