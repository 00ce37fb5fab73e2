"""The driver of a submitted job: what runs on the cluster, told by ``job.json`` what to do."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...errors import DistiltuneError, StorageError
from ..specification.config import JobConfig
from .shipping import read_specification

if TYPE_CHECKING:
    from ..store.runs import Run


def main() -> int:
    """Do the job; the exit status is 0, or that of the error."""
    catch_signals()
    from rich.console import Console

    from ..pipeline.run_job import run_job
    from ..watching.console import ProgressPrinter

    given = read_specification()
    config = on_this_cluster(JobConfig.model_validate(given["config"]))
    printer = ProgressPrinter(Console(highlight=False, soft_wrap=True, width=1000))
    try:
        with printer:
            run_job(config, given["name"], run_id=given["run_id"], listener=printer, submitted=True)
    except KeyboardInterrupt as error:
        sys.stderr.write(f"{error or 'interrupted'}\n")
        _leave_pending(given, "interrupted", None)
        return 130
    except DistiltuneError as error:
        sys.stderr.write(f"error: {'; '.join(str(error).splitlines())}\n")
        _leave_pending(given, "failed", str(error))
        return error.exit_status
    except Exception as error:
        _leave_pending(given, "failed", f"{type(error).__name__}: {error}")
        raise
    return 0


def catch_signals() -> None:
    """Both ways to end a process become KeyboardInterrupt; Ray starts processes with SIGINT blocked."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def on_this_cluster(config: JobConfig) -> JobConfig:
    """The job attached to the cluster that runs this process, whichever else is on the machine."""
    resources = config.resources.model_copy(update={"address": os.environ.get("RAY_ADDRESS", "auto")})
    return config.model_copy(update={"resources": resources})


def _leave_pending(given: dict[str, Any], state: str, error: str | None) -> None:
    """Say in the run store how a job ended that ended before its run began."""
    from ..store.runs import Run, Storage

    storage = JobConfig.model_validate(given["config"]).storage
    with suppress(StorageError):
        store = Storage(storage.path, storage.retry_s).store
        mark_ended(Run(store, given["run_id"]), given["name"], state, error)


def mark_ended(run: Run, name: str, state: str, error: str | None) -> bool:
    """Give a submitted run that has not begun its end; whether it was one."""
    from ..store.lease import is_held
    from ..store.runs import now

    submission = run.read("submission.json")
    if submission is None or not submission.get("pending"):
        return False
    if is_held(run.store, run.key()):  # another job of the run is at work, and says itself how it ends
        run.write("submission.json", {**submission, "pending": False})
        return False
    before = run.read("run.json") or {"run_id": run.id, "name": name, "created": submission["created"]}
    run.write("run.json", {**before, "state": state, "error": error, "ended": now()})
    run.write("submission.json", {**submission, "pending": False})
    return True


if __name__ == "__main__":
    sys.exit(main())
