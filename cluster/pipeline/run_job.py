"""Run the stages of a job in order; a stage that is recorded as finished is not repeated."""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ...errors import InputError, RunFailedError, StorageError
from ...progress import ReportProgress
from ...storage.logs import LogWriter, logged_to
from ...training import tasks
from ..specification.config import JobConfig
from ..specification.resources import StorageConfig
from ..store.input_files import has_references, ship_inputs
from ..store.removal import check_not_cut
from ..store.runs import STAGES, Run, Storage, name_run, now
from ..watching.events import Listener, StageEvent
from .checks.cluster import check_cluster
from .checks.preflight import CheckedJob, check_job
from .lengths import truncation_in_words
from .reuse.extension import changed_threshold, drop_outdated, extend, is_extended
from .stage_runner import StageRunner, reason_of
from .warm_start import store_warm_start_trials

if TYPE_CHECKING:
    from ...export.benchmark.measure_models import Measurement
    from ...training.data.analysis.few_labels import FewLabels
    from ...training.data.text_data import TextData
    from ..store.lease import Lease
    from .reuse.models import ModelReuse
    from .stages import StageResult

logger = logging.getLogger(__name__)

_FREE = ("storage", "resources")
# Stages that run again if a resumed run changes this section of the specification.
_AGAIN = {name: STAGES[STAGES.index(name) :] for name in ("export", "benchmark")}


def run_job(
    config: JobConfig,
    name: str,
    *,
    run_id: str | None = None,
    listener: Listener = lambda _: None,
    submitted: bool = False,
    extends: bool = False,
) -> Run:
    """Run every stage of a job that is not finished yet, and return the finished run.

    Whatever can be checked without Ray is checked first (``check_job``). Files of this machine that the job names
    are then copied to the storage if it runs on ``resources.address``, whose nodes need not have them.

    Args:
        config: The specification.
        name: Name of the job; a run without an id is named after it.
        run_id: Id of the run; an existing run with that id is resumed.
        listener: Called with every stage event.
        submitted: Whether this is the driver of a submitted job, so that an earlier request to stop is honoured.
        extends: Whether ``config`` extends the search of the run, as ``changed_job`` determined.

    Raises:
        InputError: Something that the user gave cannot be used; no later stage was started.
        RunFailedError: A stage failed; finished stages stay, and the run can be resumed under its id.
        KeyboardInterrupt: The run was interrupted, or a stop was requested.
    """
    storage = Storage(config.storage.path, config.storage.retry_s)
    run_id = name_run(name, run_id)
    job = check_job(config, storage, Run(storage.store, run_id))
    checked = time.monotonic()
    run = storage.create(run_id)
    with run.held() as lease:
        if not submitted:
            run.clear_stop()
        given = config
        was_shipped = run.read("job.json") is not None and has_references(run.specification())
        if config.resources.address is not None or was_shipped:
            config = job.config = ship_inputs(config, run.store)
        if extends:
            extend(run, config)
        refuse_other_specification(run, config, given)
        _begin(run, config, name, job.data)
        store_warm_start_trials(config, storage, run)
        writer = LogWriter(run.store, run.log)
        with logged_to(writer):
            runner = StageRunner(run, lease, lambda event: _log_event(event, listener))
            runner.begin()
            try:
                if run.is_to_stop:
                    lease.interruption = "stop"
                    raise KeyboardInterrupt
                already_s = job.data_seconds + time.monotonic() - checked
                runner.do("data", lambda _: describe_data(job), already_s=already_s)
                _run_stages(runner, job, run)
                _record_end(run, "finished", None)
            except BaseException as error:
                _fail(run, config, lease, error)
                raise
    return run


def refuse_other_specification(run: Run, *forms: JobConfig) -> None:
    """Reject resuming a run under a specification that it did not begin with.

    Storage and resources may differ, since a run can be resumed anywhere, and so may the sections of stages after the
    search, ``export`` and ``benchmark``.

    Args:
        run: The run.
        forms: The specification with local paths, and with references into the store in their place; the run has
            recorded one of these forms, depending on where it began.

    Raises:
        InputError: Other sections differ from those of each form; the message lists those of the closest form.
    """
    differences = [[key for key in _changed(run, form) if key not in _AGAIN] for form in forms]
    changed = min(differences, key=len)
    if changed:
        raise InputError(
            f"--run-id: run {run.id} exists with another specification (different: {', '.join(changed)}); choose "
            f"another id, or use the specification that it was started with"
        )


def stages_again(run: Run, config: JobConfig) -> list[str]:
    """Return, in order, the stages that run again because a section of a stage after the search has changed."""
    changed = _AGAIN.keys() & set(_changed(run, config))
    return [stage for stage in STAGES if any(stage in _AGAIN[section] for section in changed)]


def _changed(run: Run, config: JobConfig) -> list[str]:
    """Return the sections, except storage and resources, that differ from the specification that a run began with."""
    recorded = run.read("job.json")
    if recorded is None:
        return []
    with suppress(ValidationError):  # fill in the defaults of keys that an older run lacks
        recorded = type(config).model_validate(recorded).model_dump(mode="json")
    wanted = config.model_dump(mode="json")
    changed = [key for key in wanted if key not in _FREE and wanted[key] != recorded.get(key)]
    return [*changed, *changed_threshold(run, recorded, config)]


def _begin(run: Run, config: JobConfig, name: str, data: TextData) -> None:
    from ...export.machine import describe_machine

    again = stages_again(run, config)
    if again or any(run.stage_record(stage).get("state") != "finished" for stage in STAGES):
        searched = run.stage_record("search").get("state") == "finished"
        check_not_cut(run, "it cannot be resumed", needs_trials=not searched)
    recorded = run.stage_record("data").get("result", {}).get("fingerprint", data.fingerprint)
    if recorded != data.fingerprint:
        raise InputError(
            f"--run-id: run {run.id} was started with other data: its files have changed since; choose another id, "
            f"or restore the files"
        )
    for stage in again:  # results with unchanged inputs are found by their content
        run.store.delete(run.key(f"stages/{stage}.json"))
    if again or run.read("job.json") is None:
        run.write("job.json", config.model_dump(mode="json"))
    record = {
        "run_id": run.id,
        "name": name,
        "created": run.created or now(),
        "state": "running",
        "error": None,
    }
    run.write("run.json", record)
    run.write("versions.json", describe_machine())
    submission = run.read("submission.json")
    if submission is not None:
        run.write("submission.json", {**submission, "pending": False})


def _fail(run: Run, config: JobConfig, lease: Lease, error: BaseException) -> None:
    """Record how an unfinished run ended, unless another process has taken it over."""
    if lease.interruption == "lost":
        raise RunFailedError(
            f"run {run.id}: another process took it over, since this one sent no heartbeat for too long"
        ) from error
    stopped = lease.interruption == "stop"
    state = "failed" if isinstance(error, Exception) else "stopped" if stopped else "interrupted"
    logger.log(logging.ERROR if state == "failed" else logging.INFO, "%s: %s", state, reason_of(error) or "")
    with suppress(StorageError):  # the storage may be what failed
        _record_end(run, state, None if stopped else reason_of(error))
    if isinstance(error, KeyboardInterrupt):
        what = "stopped" if stopped else "interrupted"
        option = _storage_option(config)
        raise KeyboardInterrupt(f"{what}; resume with: distiltune resume {run.id}{option}") from error


def _storage_option(config: JobConfig) -> str:
    """Return the ``--storage`` option that a command needs to find the run, or an empty string."""
    default = os.environ.get("DISTILTUNE_STORAGE") or StorageConfig().path
    return "" if config.storage.path == default else f" --storage {shlex.quote(config.storage.path)}"


def _record_end(run: Run, state: str, error: str | None) -> None:
    run.write("run.json", {**(run.read("run.json") or {}), "state": state, "error": error, "ended": now()})


def _log_event(event: StageEvent, listener: Listener) -> None:
    if event.state != "progress":
        text = f": {event.text}" if event.text else ""
        took = f" ({event.seconds:.1f} s)" if event.seconds else ""
        logger.info("%s %s%s%s", event.stage, event.state, text, took)
    listener(event)


def _run_stages(runner: StageRunner, job: CheckedJob, run: Run) -> None:
    """Run the stages after the data; teacher, logits and student leave arrays in memory for the search."""
    from ..session.ray_session import ray_session
    from .finalize import make_report, seal_chosen
    from .reuse.models import ModelReuse
    from .reuse.search import SearchReuse
    from .stages import Stages

    config, local_config = job.settled_config, job.settled_local_config
    reuses = config.storage.reuse and not is_extended(run)
    reuse = SearchReuse(config, local_config, run, job.data) if reuses else None
    models = ModelReuse(config, run, job.data)
    reused = {} if reuse is None or runner.is_finished("search") else reuse.copy_search()
    if runner.is_finished("search"):
        drop_outdated(run)  # an extended search may have ended just before an interruption
        reused |= models.finish_stages()
    # The gate times the selected variant again, in a task if the job runs on a cluster.
    is_remote = config.resources.address is not None and not runner.is_finished("gate")
    gate = _gate(config, job.data, run, models)
    all_finished = runner.is_finished("search", "export", "benchmark")
    for stage, text in reused.items():
        if all_finished or stage in ("teacher", "logits", "student"):  # the others are reported below
            runner.show_reused(stage, text)
    if not all_finished or is_remote:
        with ray_session(config.resources):
            check_cluster(config.resources, run.store, config.benchmark.targets)
            stages = Stages(config, local_config, run, job.data, models)
            if not runner.is_finished("search"):
                runner.do("teacher", stages.teacher, again=True)
                runner.do("logits", stages.logits, again=True)
                runner.do("student", stages.student, again=True)
            runner.do("search", stages.search)
            drop_outdated(run)
            runner.do("export", stages.export)
            runner.do("benchmark", stages.benchmark)
            if is_remote:
                runner.do("gate", gate)
        if reuse is not None:
            reuse.index_search()
    if not is_remote:
        runner.do("gate", gate)
    runner.do("report", lambda _: make_report(config, run))
    runner.do("artifact", lambda _: seal_chosen(config, run, job.data))


def _gate(
    config: JobConfig, data: TextData, run: Run, models: ModelReuse
) -> Callable[[ReportProgress], StageResult]:
    """Return the work of the gate: selecting a variant, and timing it in turns with other models."""
    from .finalize import choose_variant
    from .ratios import RatioMeasurement

    ratios = RatioMeasurement(config, run, data, models)

    def work(report: ReportProgress) -> StageResult:
        def ratios_of(chosen: str, measured: Mapping[str, Measurement]) -> dict[str, dict[str, Any]]:
            return ratios.measure(chosen, measured, report)

        return choose_variant(config, run, data, ratios_of)

    return work


def describe_data(job: CheckedJob) -> StageResult:
    """Return the record of a job's data, and its summary in one line."""
    data, lengths = job.data, job.lengths
    few, few_in_words = few_labels_of(job)
    counts = {split: len(data.splits[split]) for split in data.splits}
    intents = len(data.label_names) - (data.out_of_scope_label is not None)
    outside = "" if data.out_of_scope_label is None else " + out-of-scope"
    if data.unlabelled:
        counts["unlabelled"] = len(data.unlabelled)
    of_windows = tasks.get(job.config.task).of_windows
    texts = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    record = {
        "fingerprint": data.fingerprint,
        "texts": counts,
        "num_labels": len(data.label_names),
        "out_of_scope_label": data.out_of_scope_label,
        "lengths": None if lengths is None else lengths.to_json(),
        "few_labels": None if few is None else {**few.to_json(), "text": few_in_words},
    }
    scarcity = f"; {few_in_words}" if few is not None and few.are_most else ""
    truncation = truncation_in_words(lengths, of_windows=of_windows)
    return record, f"{intents} {data.label_kind.unit}{outside}; {texts}{truncation}{scarcity}"


def few_labels_of(job: CheckedJob) -> tuple[FewLabels | None, str]:
    """Return how many of a job's labels have few training texts, and in words what to do about it; None if none has."""
    from ...training.data.analysis.few_labels import few_labels
    from ..specification.for_task import few_labels_in_words

    few, config = few_labels(job.data), job.config
    task = tasks.get(config.task)
    return few, "" if few is None else few_labels_in_words(few, task, config.data, config.teacher)
