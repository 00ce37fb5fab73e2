"""Operations on Ray jobs that Ray's client does not provide."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ...errors import RunFailedError, first_line
from ..nodes.addresses import ClusterAddress

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

_KILLED_WITHIN_S = 45.0  # Ray waits half a minute between SIGINT and SIGKILL


def job_info(client: JobSubmissionClient, submission_id: str) -> JobDetails | None:
    """Return Ray's details of a job, or None if it has no job with that id."""
    return next((job for job in client.list_jobs() if job.submission_id == submission_id), None)


def try_to_send(
    client: JobSubmissionClient,
    submission_id: str,
    entrypoint: str,
    runtime_env: dict[str, Any],
    metadata: dict[str, str],
) -> JobDetails | None:
    """Submit a job; return None, or the job that already has the id.

    Raises:
        RuntimeError: The cluster rejected the job for another reason.
    """
    try:
        client.submit_job(
            entrypoint=entrypoint,
            submission_id=submission_id,
            runtime_env=runtime_env,
            metadata=dict(metadata),
        )
    except RuntimeError:
        other = job_info(client, submission_id)
        if other is None:
            raise
        return other
    return None


def withdraw_job(client: JobSubmissionClient, submission_id: str, ticket: str) -> None:
    """Stop a job with this ticket, which may have reached the cluster before its submission was interrupted."""
    with suppress(RuntimeError, OSError):
        info = job_info(client, submission_id) if submission_id else None
        if info is not None and (info.metadata or {}).get("ticket") == ticket:
            end_job(client, submission_id)


def end_job(client: JobSubmissionClient, submission_id: str) -> None:
    """Stop a job and wait until Ray reports that it has ended; do nothing if there is no such job."""
    if job_info(client, submission_id) is None:
        return
    client.stop_job(submission_id)
    deadline = time.monotonic() + _KILLED_WITHIN_S
    while not client.get_job_status(submission_id).is_terminal() and time.monotonic() < deadline:
        time.sleep(0.5)


@contextmanager
def answering(cluster: ClusterAddress) -> Iterator[None]:
    """Convert what Ray's client raises to a one-line error.

    Raises:
        RunFailedError: The cluster rejected the request, or no longer responds.
    """
    from requests import RequestException

    try:
        yield
    except (RuntimeError, RequestException) as error:
        raise RunFailedError(
            f"--address: {cluster.dashboard} did not fulfil the request: {first_line(error)}"
        ) from error
