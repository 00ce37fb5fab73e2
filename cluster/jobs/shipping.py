"""Files shipped with a Ray job: the running code and the specification, both named by their content."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...storage.temporary import temporary_directory
from ..nodes.ray_environment import PROCESS_ENV
from ..session.shipped_code import PACKAGE, ROOT, runtime_env

SPECIFICATION = "job.json"


@contextmanager
def job_runtime_env(specification: dict[str, Any], root: Path = ROOT) -> Iterator[dict[str, Any]]:
    """Yield the runtime environment of a submitted job: this code, and its specification as ``job.json``.

    The code takes precedence over a version installed on a node. A stopped job receives SIGINT and has 30 seconds,
    in which a search saves its state.
    """
    with runtime_env(root) as environment, temporary_directory("job") as directory:
        (directory / SPECIFICATION).write_text(json.dumps(specification), encoding="utf-8")
        yield {
            **environment,
            "working_dir": str(directory),
            "env_vars": {
                **PROCESS_ENV,
                "RAY_JOB_STOP_SIGNAL": "SIGINT",
                "RAY_JOB_STOP_WAIT_TIME_S": "30",
                # The driver connects with its own environment, which Ray would report as a conflict.
                "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
            },
        }


def entry_point(module: str, run_id: str) -> str:
    """Return the shell command of a job; ``-P`` keeps a node's directories from shadowing the shipped code."""
    return f"exec python -P -m {PACKAGE}.cluster.jobs.{module} {run_id}"


def read_specification() -> dict[str, Any]:
    """Return, within the job, the specification that was passed to ``job_runtime_env``."""
    return json.loads(Path(SPECIFICATION).read_text(encoding="utf-8"))
