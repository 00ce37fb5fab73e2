"""Run a plan's jobs one after another and record the result of each."""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError, InputError, RunFailedError
from ...progress import Progress, ReportProgress
from ..pipeline.checks.preflight import check_job
from ..pipeline.run_job import run_job
from ..specification.config import JobConfig, PlanConfig
from ..specification.goal import goal_of, num_tested
from ..store.runs import Run, Storage, name_run
from ..watching.events import Listener
from ..watching.plan_view import tried_line
from .plan import Outcome, changed, check_plan, gate_of, outcome_of, tries


def run_plan(
    config: JobConfig,
    name: str,
    *,
    plan_id: str | None = None,
    listener: Listener = lambda _: None,
    report: ReportProgress | None = None,
) -> dict[str, Any]:
    """Execute a plan; each change is a run of its own, and a finished run is not repeated.

    Args:
        config: The job, with its plan.
        name: Name of the job; a plan without an id is named after it.
        plan_id: Id of the plan; an existing plan with that id is resumed. Its runs are ``ID-0``, ``ID-1`` and so on.
        listener: Called with every stage event of every run.
        report: Called with every change that was tried, with its record as values.

    Returns:
        The record stored in ``plans/ID.json``: ``plan_id``, ``tried``, the ``run_id`` of the last change that was
        kept, and its ``job``.

    Raises:
        ConfigError: A change or a limit of the plan cannot be used.
        ModelError: A change requires something that a model does not have.
        RunFailedError: The unchanged job ends without a variant, or a run failed; finished runs stay.
        KeyboardInterrupt: The plan was interrupted.
    """
    plan = check_plan(config)
    plan_id = name_run(name, plan_id)
    storage = Storage(config.storage.path, config.storage.retry_s)
    _check(config, plan, storage, Run(storage.store, f"{plan_id}-0"))
    record: dict[str, Any] = {"plan_id": plan_id, "tried": [], "run_id": None, "job": None}

    def do(job: JobConfig, number: int) -> Outcome:
        run_id = f"{plan_id}-{number}"
        try:
            run = run_job(job, name, run_id=run_id, listener=listener)
        except RunFailedError:
            run = storage.open(run_id)
            if run.stage_record("gate").get("state") != "finished":
                raise
        return outcome_of(run)

    try:
        for tried, kept in tries(config, plan, do):
            record["tried"].append(tried.to_json())
            record["job"] = kept.model_dump(mode="json")
            if tried.kept:
                record["run_id"] = tried.run_id
            storage.store.write_json(f"plans/{plan_id}.json", record)
            if report is not None:
                report(Progress(tried_line(tried.to_json()), tried.to_json()))
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"interrupted; resume with the same command and --run-id {plan_id}"
        ) from error
    return record


def _check(config: JobConfig, plan: PlanConfig, storage: Storage, first: Run) -> None:
    """Reject invalid changes, and a limit that the data cannot test, before the first run."""
    from ...export.selection.gate import check_gate

    base = check_job(config, storage, first)
    for step in plan.steps:
        for value in step.values:
            job = changed(config, step.key, value)
            try:
                check_job(job, storage, since=base)
            except InputError as error:
                raise type(error)(f"plan.steps: {step.key} {value!r}: {error}") from None
    limits = gate_of(plan, config.export.choose)
    try:
        has_threshold = goal_of(config, base.data) is not None
        check_gate(limits, num_tested(config, base.data), has_threshold=has_threshold)
    except ConfigError as error:
        name = "export.choose.max_drop_from_student"
        raise ConfigError(str(error).replace(name, "plan.max_accuracy_drop")) from None
