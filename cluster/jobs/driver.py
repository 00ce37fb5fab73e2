"""The driver of a submitted job: runs on the cluster and reads its specification from ``job.json``."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...errors import DistiltuneError, StorageError
from ...storage.environment import remove_process_group
from ..specification.config import JobConfig
from .shipping import read_specification

if TYPE_CHECKING:
    from ..store.runs import Run


def main() -> int:
    """Run the job and return the exit status: 0, or that of the error."""
    catch_signals()
    remove_process_group()
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
        _record_early_end(given, "interrupted", None)
        return 130
    except DistiltuneError as error:
        sys.stderr.write(f"error: {'; '.join(str(error).splitlines())}\n")
        _record_early_end(given, "failed", str(error))
        return error.exit_status
    except Exception as error:
        _record_early_end(given, "failed", f"{type(error).__name__}: {error}")
        raise
    return 0


def catch_signals() -> None:
    """Turn SIGINT and SIGTERM into ``KeyboardInterrupt``; Ray starts processes with SIGINT blocked."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def on_this_cluster(config: JobConfig) -> JobConfig:
    """Return the job with the address of the cluster that runs this process, not of another on the machine."""
    resources = config.resources.model_copy(update={"address": os.environ.get("RAY_ADDRESS", "auto")})
    return config.model_copy(update={"resources": resources})


def _record_early_end(given: dict[str, Any], state: str, error: str | None) -> None:
    """Record in the run store how a job ended if it ended before its run began."""
    from ..store.runs import Run, Storage

    storage = JobConfig.model_validate(given["config"]).storage
    with suppress(StorageError):
        store = Storage(storage.path, storage.retry_s).store
        mark_ended(Run(store, given["run_id"]), given["name"], state, error)


def mark_ended(run: Run, name: str, state: str, error: str | None) -> bool:
    """Record the end of a submitted run that has not begun; return whether it was such a run."""
    from ..store.lease import is_held
    from ..store.runs import now

    submission = run.read("submission.json")
    if submission is None or not submission.get("pending"):
        return False
    if is_held(run.store, run.key()):  # another job of the run is active and will record its end
        run.write("submission.json", {**submission, "pending": False})
        return False
    before = run.read("run.json") or {"run_id": run.id, "name": name, "created": submission["created"]}
    run.write("run.json", {**before, "state": state, "error": error, "ended": now()})
    run.write("submission.json", {**submission, "pending": False})
    return True


if __name__ == "__main__":
    sys.exit(main())
