"""The runs of a plan, one after another, and the record of what came of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import RunFailedError
from .config import JobConfig
from .pipeline import run_job
from .plan import Outcome, Tried, check_plan, outcome_of, tries
from .runs import Storage, name_run
from .watching.events import Listener


def run_plan(
    config: JobConfig,
    name: str,
    *,
    plan_id: str | None = None,
    listener: Listener = lambda _: None,
    on_tried: Callable[[Tried], None] = lambda _: None,
) -> dict[str, Any]:
    """Do a plan; each change is a run of its own, and one that is finished is not done again.

    Args:
        config: The job, with its plan.
        name: Of the job; a plan without an id is named after it.
        plan_id: Names the plan, or goes on with the one of that name; its runs are ``ID-0``, ``ID-1`` and so on.
        listener: Told of every stage of every run.
        on_tried: Told of every change that was tried.

    Returns:
        The record, as it is kept in ``plans/ID.json``: ``plan_id``, ``tried``, the ``run_id`` of the last change that
        was kept, and its ``job``.

    Raises:
        ConfigError: The plan cannot be tried as it is.
        RunFailedError: The job as it is ends without a variant, or a run failed; what was tried stays.
        KeyboardInterrupt: It was interrupted.
    """
    plan = check_plan(config)
    plan_id = name_run(name, plan_id)
    storage = Storage(config.storage.path, config.storage.endpoint_override, config.storage.retry_s)
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
            on_tried(tried)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"interrupted; go on with the same command and --run-id {plan_id}") from error
    return record
