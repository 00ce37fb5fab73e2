"""Submit, stop and resume runs on a cluster, as Ray jobs."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError, RunFailedError
from ...progress import Progress, ReportProgress, ignore
from ..nodes.addresses import ClusterAddress, find_cluster, job_client
from ..pipeline.checks.preflight import check_job
from ..pipeline.reuse.extension import extend
from ..pipeline.run_job import refuse_other_specification, stages_again
from ..specification.config import JobConfig
from ..store.input_files import ship_inputs
from ..store.runs import Run, Storage, name_run, now, seconds_since
from .checks import checked_on_cluster
from .driver import mark_ended
from .ray_jobs import answering, end_job, job_info, try_to_send, withdraw_job
from .shipping import entry_point, job_runtime_env

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

STOP_WITHIN_S = 60.0
_ARRIVES_WITHIN_S = 60.0
_UNDER_WAY = ("submitted", "running", "finished")
_RECORDS = ("job.json", "submission.json")


@dataclass(frozen=True)
class Submission:
    """A run on a cluster, and whether a job had to be sent for it."""

    run: Run
    sent: bool
    """Whether a job was sent; otherwise the run was already under way or finished."""
    state: str


@dataclass(frozen=True)
class _Sender:
    """One command's connection to one cluster."""

    cluster: ClusterAddress
    client: JobSubmissionClient
    report: ReportProgress


def submit(
    config: JobConfig,
    name: str,
    *,
    address: str | None = None,
    token_file: Path | None = None,
    run_id: str | None = None,
    report: ReportProgress | None = None,
) -> Submission:
    """Submit a job to a cluster; a run with that id that is under way or finished is left unchanged.

    First this machine checks what it can, then the cluster checks the rest, and only then the job is sent. If
    anything ends this early, Ctrl-C included, no run is left behind; uploaded files stay, since other runs may
    use them.

    Args:
        config: The specification.
        name: Name of the job; a run without an id is named after it.
        address: Address of the cluster; see ``find_cluster``.
        token_file: File with the token of the cluster.
        run_id: Id of the run; an existing run with that id is resumed.
        report: Called at each step.

    Raises:
        InputError: Something that the user gave cannot be used, here or on the cluster.
        RunFailedError: The cluster did not accept the job.
        StorageError: The storage cannot be reached.
    """
    run_id = name_run(name, run_id)
    sender = _connect(address, token_file, report or ignore)  # fail fast on a bad address
    storage = Storage(config.storage.path, config.storage.retry_s)
    check_job(config, storage, Run(storage.store, run_id), has_inputs=False)
    run = storage.create(run_id)
    with answering(sender.cluster), _removed_on_failure(run):
        return _submit(sender, run, _absolute(config, run), name, resumed=False)


def resume(
    run: Run,
    *,
    address: str | None = None,
    token_file: Path | None = None,
    report: ReportProgress | None = None,
    config: JobConfig | None = None,
    extends: bool = False,
) -> Submission:
    """Resume a run on a cluster: the one it was on, unless another is given.

    Args:
        run: The run.
        address: Address of the cluster.
        token_file: File with the token of the cluster.
        report: Called at each step.
        config: The specification, if it differs from the one that the run began with.
        extends: Whether ``config`` extends the search of the run, as ``changed_job`` determined.

    Raises:
        InputError: The run is running, or has no specification to resume from; or as in ``submit``.
        RunFailedError: The cluster did not accept the job.
        StorageError: The storage cannot be reached.
    """
    state = run.state
    config = specification(run) if config is None else config
    if state == "finished" and not extends and not stages_again(run, config):
        return Submission(run, sent=False, state=state)
    if state == "running":
        raise _under_way(run, state)
    submission = run.read("submission.json") or {}
    sender = _connect(address or submission.get("address"), token_file, report or ignore)
    if extends:
        check_job(config, Storage(run.store.url, run.store.retry_s), run, has_inputs=False)
    name = (run.read("run.json") or {}).get("name", run.id)
    with answering(sender.cluster):
        return _submit(sender, run, config, name, resumed=True, extends=extends)


def specification(run: Run) -> JobConfig:
    """Return the specification that a run began with, with the storage where the run was found.

    Raises:
        InputError: The run has no specification.
        DamagedRecordError: The specification's record is damaged.
    """
    return _absolute(run.specification(), run)


def stop(run: Run, *, token_file: Path | None = None, report: ReportProgress | None = None) -> str:
    """Stop a run, with its search saved, and return the state that it is in afterwards.

    The process that runs it sees the request at its next heartbeat. A job that does not respond is stopped
    through Ray.

    Raises:
        InputError: The cluster is needed to stop the run and cannot be reached.
        RunFailedError: The run has not stopped, and is not a job that Ray could stop.
    """
    state = run.state
    if state not in ("submitted", "running"):
        return state
    report = report or ignore
    run.request_stop()
    submission = run.read("submission.json") or {}
    if state == "running":
        report(Progress("stop requested; the run saves its search first"))
        if _wait_for_end(run, STOP_WITHIN_S):
            return run.state
        if not submission:
            raise RunFailedError(
                f"run {run.id} has not stopped within {STOP_WITHIN_S:g} s, and it runs on no cluster; kill its "
                f"process"
            )
        report(Progress("the run does not respond; stopping its job"))
    sender = _connect(submission["address"], token_file, report)
    with answering(sender.cluster):
        end_job(sender.client, submission["submission_id"])
    if not mark_ended(run, run.id, "stopped", None) and run.state == "interrupted":
        run.write(
            "run.json", {**(run.read("run.json") or {}), "state": "stopped", "error": None, "ended": now()}
        )
    return run.state


def _connect(address: str | None, token_file: Path | None, report: ReportProgress) -> _Sender:
    cluster = find_cluster(address, token_file)
    client = job_client(cluster)
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.WARNING)  # INFO would log every upload
    return _Sender(cluster, client, report)


def _absolute(config: JobConfig, run: Run) -> JobConfig:
    """Return the job with the absolute location of its storage."""
    return config.model_copy(update={"storage": config.storage.model_copy(update={"path": run.store.url})})


def _submit(
    sender: _Sender, run: Run, config: JobConfig, name: str, *, resumed: bool, extends: bool = False
) -> Submission:
    submission: Submission | None = None
    try:
        shipped = ship_inputs(config, run.store)
        if shipped is not config:
            sender.report(Progress("the files that the job names are in the storage"))
        if not extends:
            refuse_other_specification(run, config, shipped)
        again = [] if extends else stages_again(run, shipped)
        nothing_to_do = _UNDER_WAY if not (extends or again) else ("submitted", "running")
        state = _state(sender, run)
        if state in nothing_to_do:
            if resumed and state != "finished":
                raise _under_way(run, state)
            return Submission(run, sent=False, state=state)
        sender.report(Progress("the cluster is checking the job"))
        with checked_on_cluster(sender.client, shipped, run.id, run.store):
            state = _state(sender, run)  # another process may have sent it meanwhile
            if state in nothing_to_do:
                if resumed and state != "finished":
                    raise _under_way(run, state)
                return Submission(run, sent=False, state=state)
            sender.report(Progress("sending the job"))
            if extends:
                run.clear_stop()
                with run.held():
                    extend(run, shipped)
            for stage in again:
                run.store.delete(run.key(f"stages/{stage}.json"))
            submission = _send(sender, run, shipped, name)
    except BaseException:
        if submission is None:  # a later failure, such as in the check's cleanup, is ignored
            raise
    return submission


def _under_way(run: Run, state: str) -> InputError:
    return InputError(f"run {run.id} is {state}; watch it with `distiltune status {run.id}`")


def _state(sender: _Sender, run: Run) -> str:
    """Return the run's state, after marking it as failed if Ray ended or lost its job before the run began."""
    state, submission = run.state, run.read("submission.json")
    if state != "submitted" or submission is None or submission["address"] != sender.cluster.dashboard:
        return state
    info = job_info(sender.client, submission["submission_id"])
    gone = (
        seconds_since(submission["created"]) > _ARRIVES_WITHIN_S
        if info is None
        else info.status.is_terminal()
    )
    if gone:
        message = ((info.message if info else None) or "").strip() or "its job is no longer on the cluster"
        mark_ended(run, run.id, "failed", message.splitlines()[-1])
    return run.state


def _send(sender: _Sender, run: Run, config: JobConfig, name: str) -> Submission:
    """Write the records that ``status`` shows and submit the job; undo the records if that fails."""
    before = {record: run.read(record) for record in _RECORDS}
    attempt = ((before["submission.json"] or {}).get("attempt", 0)) + 1
    given = {"config": config.model_dump(mode="json"), "run_id": run.id, "name": name}
    ticket = secrets.token_hex(8)
    storage = run.store.location()
    metadata = {"run_id": run.id, "storage": storage, "ticket": ticket}
    submission_id = ""
    run.clear_stop()
    try:
        run.write("job.json", given["config"])
        with job_runtime_env(given) as runtime_env:
            while True:
                submission_id = run.id if attempt == 1 else f"{run.id}-{attempt}"
                run.write("submission.json", _record(sender.cluster, submission_id, attempt))
                other = try_to_send(
                    sender.client, submission_id, entry_point("driver", run.id), runtime_env, metadata
                )
                if other is None:
                    return Submission(run, sent=True, state="submitted")
                if not other.status.is_terminal() and (other.metadata or {}).get("storage") == storage:
                    return Submission(run, sent=False, state=run.state)
                attempt += 1  # another or a deleted run has used this id on this cluster
    except BaseException:
        withdraw_job(sender.client, submission_id, ticket)
        for record, value in before.items():
            run.store.delete(run.key(record)) if value is None else run.write(record, value)
        raise


def _record(cluster: ClusterAddress, submission_id: str, attempt: int) -> dict[str, Any]:
    return {
        "address": cluster.dashboard,
        "submission_id": submission_id,
        "created": now(),
        "attempt": attempt,
        "pending": True,
    }


def _wait_for_end(run: Run, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while run.state == "running":
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5 if run.store.directory is not None else 2)
    return True


@contextmanager
def _removed_on_failure(run: Run) -> Iterator[None]:
    """Delete the directory of a run that did not exist before, if the block fails."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            if not run.exists and not run.store.sizes(run.key()):
                run.store.delete(run.key())
        raise
