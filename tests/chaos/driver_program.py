"""A program that starts drivers: a fork of this process, which has imported everything, runs the job on each line.

Each line is answered with the driver's process id. The driver writes its results to the file that the job names.
"""

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any


def warm() -> None:
    """Import what a driver needs, which takes most of its start time."""
    import optuna  # noqa: F401
    import ray.tune
    import ray.tune.search.optuna  # noqa: F401
    import stored_searches  # noqa: F401

    import distiltune.search.driver.collect
    import distiltune.search.driver.experiment
    import distiltune.search.driver.progress
    import distiltune.search.trial.events
    import distiltune.search.trial.run  # noqa: F401


def run_driver(job: dict[str, Any]) -> None:
    """Run one driver, from its connection to Ray to the file with its results."""
    import ray
    from job import run_job

    import distiltune.search.driver.experiment

    if job["snapshot_s"] is not None:
        distiltune.search.driver.experiment._SNAPSHOT_S = job["snapshot_s"]
    found: dict[str, Any]
    try:
        hook = {"worker_process_setup_hook": job["setup_hook"]} if job["setup_hook"] else None
        ray.init(address=job["address"], runtime_env=hook, log_to_driver=False, logging_level="ERROR")
        Path(job["began"]).write_text(str(time.time()))
        found = run_job(job)
    except BaseException as error:
        traceback.print_exc()
        found = {"error": type(error).__name__, "reason": str(error)}
    partial = Path(job["result"] + ".part")
    partial.write_text(json.dumps(found))
    partial.replace(job["result"])
    ray.shutdown()


def be_driver(line: str) -> None:
    """Run a driver in a forked process; never returns."""
    job = json.loads(line)
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for target, source in ((0, nothing), (1, log), (2, log)):
            os.dup2(source, target)
        run_driver(job)
    finally:
        os._exit(0)


def main() -> None:
    warm()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # drivers that ended are reaped automatically
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            be_driver(line)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
