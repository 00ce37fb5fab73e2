"""Plans: changes to a job tried one after another, each kept only if it passes the gate and gains enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import ValidationError

from ...errors import ConfigError, RunFailedError, listed, shown
from ...export.benchmark.measure_models import Measurement
from ...export.config import BenchmarkConfig, ChooseConfig
from ...export.selection.gate import accuracy_kind, apply_gate
from ...training.tasks import Metric, Task
from ...training.tasks import get as get_task
from ..specification.config import JobConfig, PlanConfig, PlanStep
from ..specification.faults import described
from ..store.runs import Run

_BASE, _TRIED = "base", "tried"


@dataclass(frozen=True)
class Outcome:
    """Result of a complete run of one job.

    Attributes:
        run_id: Id of the run.
        measurement: Measurement of the selected variant, with its predictions; None if no variant meets the limits.
        reason: Why no variant meets them.
        label_names: Labels of its data.
        out_of_scope_id: Number of the out-of-scope label among them; None without one.
    """

    run_id: str
    measurement: Measurement | None
    reason: str = ""
    label_names: Sequence[str] = ()
    out_of_scope_id: int | None = None


@dataclass(frozen=True)
class Tried:
    """One change that was tried; the first entry is the unchanged job.

    Attributes:
        run_id: Id of its run.
        key: Key that was changed, such as ``student.layers``; None in the first entry.
        value: Value that the key was changed to.
        variant: Variant that the run selected.
        latency_ms: Latency of one text, p50.
        size_mb: Size of the graph, in 2**20 bytes.
        validation_accuracy: Accuracy of the kind that ``export.choose.accuracy`` selects.
        against_base: Paired comparison of the job's metric with the first entry's; None in the first entry.
        cost: Quantity that the plan minimises, as a share of the first entry's.
        kept: Whether the following changes build on this one.
        reason: Why it was kept, or why not.
    """

    run_id: str
    key: str | None
    value: Any
    variant: str | None = None
    latency_ms: float | None = None
    size_mb: float | None = None
    validation_accuracy: float | None = None
    against_base: dict[str, Any] | None = None
    cost: float | None = None
    kept: bool = True
    reason: str = "the unchanged job"

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return asdict(self)


def check_plan(config: JobConfig) -> PlanConfig:
    """Return the plan of a job after checking that each change can be applied to the unchanged job.

    Raises:
        ConfigError: There is no plan, or changes cannot be applied; the message lists them all.
    """
    plan, faults = config.plan, []
    if plan is None or not plan.steps:
        raise ConfigError(
            "plan.steps: none given, so there is nothing to try; list keys and values, such as "
            "{key: student.layers, values: [[0, 2, 5], [0, 5]]}"
        )
    for step in plan.steps:
        for value in step.values:
            try:
                changed(config, step.key, value)
            except ConfigError as error:
                faults.append(str(error))
    if faults:
        raise ConfigError(listed(faults))
    return plan


def changed(config: JobConfig, key: str, value: Any) -> JobConfig:
    """Return a job with one key changed and without its plan.

    Raises:
        ConfigError: There is no such key, or the value is not valid for it.
    """
    values = config.model_dump(mode="json") | {"plan": None}
    at, keys = values, key.split(".")
    if keys[0] == "plan":
        raise ConfigError(f"plan.steps: key {shown(key)} given; accepted: a key outside of the section plan")
    for number, name in enumerate(keys[:-1], start=1):
        if at.get(name, 0) is None:
            at[name] = {}
        at = at.get(name)
        if not isinstance(at, dict):
            raise ConfigError(f"plan.steps: key {key}: {'.'.join(keys[:number])} is not a section")
    at[keys[-1]] = value
    if isinstance(section := values["benchmark"], dict):
        values["benchmark"] = BenchmarkConfig.follow_effort(config.benchmark.model_dump(mode="json"), section)
    try:
        return JobConfig.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(described(error, JobConfig))
        raise ConfigError(f"plan.steps: {key} {shown(value)}: {faults}") from None


def tries(
    config: JobConfig, plan: PlanConfig, do: Callable[[JobConfig, int], Outcome]
) -> Iterator[tuple[Tried, JobConfig]]:
    """Try the plan's changes greedily: in each step, one value after another until one is rejected.

    Args:
        config: The unchanged job.
        plan: Changes to try.
        do: Runs a complete job; its second argument is the job's number, counted from 0.

    Yields:
        Every change that was tried, and the job that is kept after it.

    Raises:
        RunFailedError: The unchanged job ends without a variant.
    """
    kept = config.model_copy(update={"plan": None})
    outcome = do(kept, 0)
    if outcome.measurement is None:
        raise RunFailedError(f"run {outcome.run_id}, the unchanged job: {outcome.reason}")
    metric = get_task(config.task).metric(config.metric, outcome.label_names, outcome.out_of_scope_id)
    judge = _Judge(plan, config.export.choose, outcome.measurement, metric, get_task(config.task))
    first = replace(judge.described(outcome, None, None), cost=1.0)
    yield first, kept
    least, number = first.cost or 1.0, 0
    for step in plan.steps:
        for value in step.values:
            candidate = changed(kept, step.key, value)
            if candidate == kept:
                continue
            number += 1
            tried = judge(do(candidate, number), step, value, least)
            if tried.kept:
                kept, least = candidate, tried.cost or least
            yield tried, kept
            if not tried.kept:
                break


def gate_of(plan: PlanConfig, choose: ChooseConfig) -> ChooseConfig:
    """Return the gate that every change must pass: the job's own, with the plan's limit."""
    return ChooseConfig(
        max_drop_from_student=plan.max_accuracy_drop,
        max_drop_from_teacher=None,
        strict=choose.strict,
        confidence=choose.confidence,
        accuracy=choose.accuracy,
    )


class _Judge:
    """Compares outcomes with the first one."""

    def __init__(
        self, plan: PlanConfig, choose: ChooseConfig, base: Measurement, metric: Metric, task: Task
    ) -> None:
        self._plan = plan
        self._metric = metric
        self._task = task
        self._base = base
        self._gate = gate_of(plan, choose)

    def described(self, outcome: Outcome, key: str | None, value: Any) -> Tried:
        measurement = outcome.measurement
        if measurement is None:
            return Tried(outcome.run_id, key, value, kept=False, reason=outcome.reason)
        thresholded = accuracy_kind(self._gate, measurement) == "with_threshold"
        accuracy = (
            (measurement.with_threshold or {}).get("validation_accuracy")
            if thresholded
            else measurement.validation_accuracy
        )
        return Tried(
            outcome.run_id, key, value, measurement.name, measurement.p50_ms, measurement.size_mb, accuracy,
            cost=self._cost(measurement) / self._cost(self._base),
        )  # fmt: skip

    def __call__(self, outcome: Outcome, step: PlanStep, value: Any, least: float) -> Tried:
        tried = self.described(outcome, step.key, value)
        if outcome.measurement is None:
            return tried
        gained = 1 - self._cost(outcome.measurement) / self._cost(self._base) / least
        measurements = [replace(self._base, name=_BASE), replace(outcome.measurement, name=_TRIED)]
        judged = apply_gate(measurements, self._gate, metric=self._metric, task=self._task, student=_BASE)[1]
        tried = replace(tried, against_base=judged.against_student)
        if judged.gate == "failed":
            return replace(tried, kept=False, reason=judged.verdict or "")
        if gained < self._plan.min_gain:
            limit = f"less than min_gain {self._plan.min_gain:g}"
            reason = f"{self._plan.minimise} decreases by {100 * gained:.1f} %, {limit}"
            return replace(tried, kept=False, reason=reason)
        return replace(tried, reason=f"{self._plan.minimise} decreases by {100 * gained:.1f} %")

    def _cost(self, measurement: Measurement) -> float:
        latency, size = measurement.p50_ms, measurement.megabytes
        return {"latency_ms": latency, "size_mb": size, "latency_times_size": latency * size}[
            self._plan.minimise
        ]


def outcome_of(run: Run) -> Outcome:
    """Return the outcome of a run whose gate has been applied."""
    choice = run.stage_record("gate").get("result") or {}
    if choice.get("chosen") is None:
        return Outcome(run.id, None, choice.get("reason") or "the run has not reached its gate")
    measured = run.stage_record("benchmark")["result"]
    chosen = next(each for each in measured["measurements"] if each["name"] == choice["chosen"])
    return Outcome(
        run.id,
        Measurement.from_json(chosen),
        label_names=measured["label_names"],
        out_of_scope_id=measured["out_of_scope_id"],
    )
