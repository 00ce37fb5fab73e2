"""Checks that need the cluster: a short Ray job makes them before the real job is submitted."""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ... import errors
from ...errors import ConfigError, DistiltuneError, RunFailedError
from ..specification.config import JobConfig
from .driver import catch_signals, on_this_cluster
from .shipping import entry_point, job_runtime_env, read_specification

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from ...storage.store import Store

MARK = "distiltune-check: "
_WITHIN_S = 600.0
_PERIOD_S = 0.3
_SETTLES_S = 2.5  # Ray polls a job every second


@contextmanager
def checked_on_cluster(
    client: JobSubmissionClient, config: JobConfig, run_id: str, store: Store
) -> Iterator[dict[str, Any]]:
    """Check storage, resources, data and checkpoints of a job on the cluster; the block runs if all checks pass.

    The check's own Ray job is deleted after the block, since Ray needs a few seconds to settle its state.

    Yields:
        ``texts``: number of texts per split; ``num_labels``.

    Raises:
        InputError: The cluster cannot use something; the message is that of its check.
        RunFailedError: The check itself could not be run.
    """
    probe = f"cache/probes/{secrets.token_hex(8)}"
    store.write(probe, run_id.encode())
    sent, ended = None, None
    try:
        given = {"config": config.model_dump(mode="json"), "run_id": run_id, "probe": probe}
        with job_runtime_env(given) as runtime_env:
            sent = client.submit_job(
                entrypoint=entry_point("checks", run_id),
                submission_id=f"check-{run_id}-{secrets.token_hex(3)}",
                runtime_env=runtime_env,
                metadata={"check_of": run_id},
            )
        answer = _wait_for_answer(client, sent)
        ended = time.monotonic()
        yield answer
    finally:
        store.delete(probe)
        if sent is not None:
            _delete_job(client, sent, ended or time.monotonic())


def _wait_for_answer(client: JobSubmissionClient, job: str) -> dict[str, Any]:
    deadline = time.monotonic() + _WITHIN_S
    while not client.get_job_status(job).is_terminal():
        if time.monotonic() > deadline:
            raise RunFailedError(
                f"--address: the cluster did not check the job within {_WITHIN_S:g} s; is it overloaded?"
            )
        time.sleep(_PERIOD_S)
    lines = client.get_job_logs(job).splitlines()
    marked = [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]
    if not marked:
        info = client.get_job_info(job)
        output = [line for line in (info.message or "").splitlines() + lines if line.strip()]
        raise RunFailedError(
            f"--address: the cluster cannot run distiltune: {output[-1] if output else info.status}"
        )
    try:
        answer = json.loads(marked[-1])
        kind, message = answer.get("error"), str(answer.get("message", ""))
    except (ValueError, RecursionError, AttributeError):
        raise RunFailedError("--address: the result of the cluster's check is truncated; try again") from None
    if kind is not None:
        found = getattr(errors, str(kind), None)
        raise (found if isinstance(found, type) and issubclass(found, DistiltuneError) else RunFailedError)(
            message
        )
    return answer


def _delete_job(client: JobSubmissionClient, job: str, ended: float) -> None:
    """Delete the check's job, stopping it first if it is still running.

    If it were deleted at once, Ray's next poll would restore it as failed.
    """
    with suppress(RuntimeError, OSError):
        if not client.get_job_status(job).is_terminal():
            client.stop_job(job)
            deadline = time.monotonic() + 10
            while not client.get_job_status(job).is_terminal() and time.monotonic() < deadline:
                time.sleep(_PERIOD_S)
            ended = time.monotonic()
        time.sleep(max(0.0, ended + _SETTLES_S - time.monotonic()))
        client.delete_job(job)


def main() -> int:
    """Run the checks inside the check's Ray job and print the result as one line of JSON."""
    catch_signals()
    given = read_specification()
    config = on_this_cluster(JobConfig.model_validate(given["config"]))
    try:
        answer = _run_checks(config, given["probe"], given["run_id"])
    except DistiltuneError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    sys.stdout.write(f"{MARK}{json.dumps(answer)}\n")
    return 0


def _run_checks(config: JobConfig, probe: str, run_id: str) -> dict[str, Any]:
    """Check the storage, the nodes, then the job, on the cluster that will run it."""
    from ..pipeline.checks.cluster import check_cluster
    from ..pipeline.checks.preflight import check_job
    from ..session.ray_session import ray_session
    from ..store.checks import LOOK_S, check_writable
    from ..store.runs import Run, Storage

    storage = Storage(config.storage.path, LOOK_S)
    store = storage.store
    if store.directory is not None and store.read(probe) is None:
        raise ConfigError(
            f"storage.path: {store} is a directory of the submitting machine, which the cluster cannot access; use "
            f"s3://…, or a directory that all nodes mount"
        )
    check_writable(store, probe.rpartition("/")[0])
    with ray_session(config.resources):
        check_cluster(config.resources, store, config.benchmark.targets)
    data = check_job(config, storage, Run(store, run_id)).data
    texts = {split: len(data.splits[split]) for split in data.splits}
    return {"texts": texts, "num_labels": len(data.label_names)}


if __name__ == "__main__":
    sys.exit(main())
