"""Run measurements in fresh Python processes: set their environment, and call a function of this package in one."""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ...errors import RunFailedError
from ...storage.temporary import temporary_directory

PACKAGE = (__package__ or "distiltune").split(".")[0]  # also when this module runs as a program
_PACKAGE_DIR = Path(__file__).resolve().parents[2]
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_log = logging.getLogger(__name__)


def environment(num_threads: int) -> dict[str, str]:
    """Return a process's environment: one thread count for every library, no network, and this same package."""
    count = str(num_threads)
    path = [entry for entry in sys.path if entry]
    if _PACKAGE_DIR.name == PACKAGE and str(_PACKAGE_DIR.parent) not in path:
        path.insert(0, str(_PACKAGE_DIR.parent))
    return {
        **os.environ,
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "RAYON_NUM_THREADS": count,
        "TOKENIZERS_PARALLELISM": "true" if num_threads > 1 else "false",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONPATH": os.pathsep.join(path),
        # Modules in the current directory must not shadow those of the process.
        "PYTHONSAFEPATH": "1",
    }


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that ends; only on Linux."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended in between
            os.kill(os.getpid(), signal.SIGKILL)


def run_module(module: str, arguments: list[str], *, what: str, num_threads: int) -> None:
    """Run ``export.<module>`` as a program, and wait for it to end.

    Raises:
        RunFailedError: it failed; the message contains ``what`` and the last line of the process's stderr.
    """
    command = [sys.executable, "-m", f"{PACKAGE}.export.{module}", *arguments]
    done = subprocess.run(
        command,
        env=environment(num_threads),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise failure(what, done.returncode, done.stderr)


def failure(what: str, status: int, stderr: str) -> RunFailedError:
    """Return the error for a failed process, with the last line of its stderr."""
    _log.debug("%s: %s", what, stderr)
    last = (stderr.strip().splitlines() or ["no message"])[-1]
    return RunFailedError(f"benchmark of {what} failed with status {status}: {last}")


def call_in_process(
    module: str, function: str, arguments: dict[str, Any], *, what: str, num_threads: int
) -> Any:
    """Return the result of ``export.<module>.<function>(**arguments)``, called in a fresh process.

    Args:
        module: a module of ``export``.
        function: a function of that module.
        arguments: its arguments, JSON values like its result.
        what: the thing measured, for the error.
        num_threads: number of threads of every library in that process.

    Raises:
        RunFailedError: the process failed.
    """
    with temporary_directory("benchmark") as scratch:
        spec, out = scratch / "spec.json", scratch / "out.json"
        called = {"module": module, "function": function, "arguments": arguments}
        spec.write_text(json.dumps(called), encoding="utf-8")
        run_module("benchmark.processes", [str(spec), str(out)], what=what, num_threads=num_threads)
        return json.loads(out.read_text(encoding="utf-8"))


def main() -> None:
    """Call the function that SPEC names, and write its result to OUT."""
    end_with_parent()
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("spec", type=Path)
    parser.add_argument("out", type=Path)
    files = parser.parse_args()
    called = json.loads(files.spec.read_text(encoding="utf-8"))
    function = getattr(importlib.import_module(f"{PACKAGE}.export.{called['module']}"), called["function"])
    files.out.write_text(json.dumps(function(**called["arguments"]), allow_nan=False), encoding="utf-8")


if __name__ == "__main__":
    main()
