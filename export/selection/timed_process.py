"""Run a process with one opened model that times a block of runs on request, importing only what the model needs."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...texts import TextOrPair, from_json
from ..benchmark import targets
from ..benchmark.contention import waiting_seconds
from ..benchmark.processes import PACKAGE, end_with_parent, environment, failure
from ..benchmark.targets.base import OpenOptions

_LEAST_RUNS, _MOST_RUNS, _BLOCK_S = 10, 400, 0.02  # of a block
_RUNS_PER_WARM_UP = (
    5  # timed runs of a block for each untimed run before them; a model that paused has cold caches
)


@dataclass(frozen=True)
class Block:
    """One model's block of runs.

    Attributes:
        seconds: Median time of a run.
        waiting: Share of the block in which the process waited for a processor, 0 to 1; None where it is not known.
    """

    seconds: float
    waiting: float | None


class TimedProcess:
    """A process with one opened model, which times a block whenever it is called; a context manager that ends it.

    Args:
        name: Name of the model, for errors.
        kind: Name of its target.
        options: Options for opening it.
        query: The text or pair to time.
        scratch: Folder for temporary files, which outlives the process.
    """

    def __init__(self, name: str, kind: str, options: OpenOptions, query: TextOrPair, scratch: Path) -> None:
        self._name, self._errors = name, scratch / "stderr"
        request = {"kind": kind, "options": asdict(options), "query": query}
        request_file = scratch / "model.json"
        request_file.write_text(json.dumps(request), encoding="utf-8")
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{PACKAGE}.export.selection.timed_process", str(request_file)],
                env=environment(options.num_threads),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def __enter__(self) -> TimedProcess:
        return self

    def __call__(self) -> Block:
        """Time one block.

        Raises:
            RunFailedError: The process has ended.
        """
        given, answers = self._process.stdin, self._process.stdout
        assert given is not None and answers is not None
        try:
            given.write("\n")
            given.flush()
            line = answers.readline()
        except OSError:
            line = ""
        if not line:
            stderr = self._errors.read_text(encoding="utf-8", errors="replace")
            raise failure(self._name, self._process.wait(), stderr)
        return Block(**json.loads(line))

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def time_block(run: Callable[[], Any], num_runs: int, num_threads: int = 1) -> Block:
    """Time ``num_runs`` runs after some that are not timed, and return their median."""
    for _ in range(max(1, num_runs // _RUNS_PER_WARM_UP)):
        run()
    times = np.empty(num_runs)
    before, began = waiting_seconds(), time.perf_counter()
    for number in range(num_runs):
        start = time.perf_counter()
        run()
        times[number] = time.perf_counter() - start
    seconds, after = time.perf_counter() - began, waiting_seconds()
    waiting = None
    if before is not None and after is not None:
        waiting = max(0.0, after - before) / max(seconds * num_threads, 1e-9)
    return Block(float(np.median(times)), waiting)


def main() -> None:
    """Open one model; for each line of stdin, time a block and write it to stdout as JSON."""
    end_with_parent()
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("request", type=Path)
    request = json.loads(parser.parse_args().request.read_text(encoding="utf-8"))
    # What a library prints must not be taken for a block.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    options = OpenOptions(**request["options"])
    pipeline = targets.get(request["kind"]).open(options).pipeline

    query = from_json(request["query"])

    def run() -> None:
        pipeline(query)

    once = time_block(run, _LEAST_RUNS).seconds
    num_runs = int(np.clip(_BLOCK_S / max(once, 1e-9), _LEAST_RUNS, _MOST_RUNS))
    for _ in sys.stdin:
        answers.write(json.dumps(asdict(time_block(run, num_runs, options.num_threads))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
