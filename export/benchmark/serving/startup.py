"""Measure the time from a process's start to its first prediction, and the memory of a process that only serves."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import InputError
from ....texts import TextOrPair
from ..processes import PACKAGE, environment, failure

_NUM_SERVED = 20
# A minimal server without other imports; perf_counter is a machine-wide clock.
_SERVER = """
import time
began = time.perf_counter()
from {package} import TextClassifier
imported = time.perf_counter()
import json, sys
request = json.loads(sys.argv[1])
text = tuple(request["text"]) if isinstance(request["text"], list) else request["text"]
classifier = TextClassifier.load(request["directory"], num_threads=request["num_threads"], session=request["session"])
loaded = time.perf_counter()
classifier(text)
labelled = time.perf_counter()
for _ in range(request["num_served"]):
    classifier(text)
from {package}.export.benchmark.memory import peak_memory_mb
print(json.dumps([[began, imported, loaded, labelled], peak_memory_mb()]))
"""


def measure_startup(
    directory: str | Path,
    *,
    text: TextOrPair,
    num_threads: int = 1,
    num_runs: int = 5,
    session: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Time a new process that imports the runtime, loads the artifact and classifies one text, several times.

    Args:
        directory: an artifact or ONNX variant; its files are in the page cache from the second run on.
        text: text or pair to classify.
        num_threads: intra-op threads.
        num_runs: number of processes, started one after another.
        session: session options; default: the artifact's.

    Returns:
        Medians: ``python_ms`` (until the interpreter runs its first line), ``import_ms``, ``load_ms``,
        ``first_call_ms``, ``total_ms`` (until the first prediction), and ``peak_memory_mb`` after 20 more calls with
        the text.

    Raises:
        InputError: ``num_runs`` is below 1.
        RunFailedError: a process failed.
    """
    if num_runs < 1:
        raise InputError(f"num_runs is {num_runs}; give 1 or more")
    request = {
        "directory": str(Path(directory).resolve()),
        "text": text,
        "num_threads": num_threads,
        "session": None if session is None else dict(session),
        "num_served": _NUM_SERVED,
    }
    runs = np.array([_serve(request) for _ in range(num_runs)])
    names = ("python_ms", "import_ms", "load_ms", "first_call_ms", "total_ms", "peak_memory_mb")
    return {name: float(value) for name, value in zip(names, np.median(runs, axis=0), strict=True)}


def _serve(request: dict[str, Any]) -> list[float]:
    """Run one process, and return the milliseconds of its four phases and in total, and its peak memory."""
    command = [sys.executable, "-c", _SERVER.format(package=PACKAGE), json.dumps(request)]
    started = time.perf_counter()
    done = subprocess.run(
        command,
        env=environment(request["num_threads"]),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise failure("the start-up", done.returncode, done.stderr)
    marks, memory = json.loads(done.stdout)
    parts = np.diff([started, *marks]) * 1000
    return [*parts.tolist(), float(parts.sum()), memory]
