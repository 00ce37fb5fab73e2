"""Measure this library on a GPU within a time budget.

    python benchmarks/gpu.py --budget 420 --out DIR [--tiny] [--device cuda|cpu] [--rows TEXT]... [--commit TEXT]

Weights are random, with the shapes of MiniLM and BERT-base; texts have 16 tokens on average. The most important rows
are measured first: the card and its ceilings; examples/s of one trial with different settings; trials/hour of a search
with 1 to 32 trials sharing the GPU; labelling; fine-tuning; latency. Each row is printed, and written to
``DIR/rows.jsonl``, as soon as it is measured. A row that fails or exceeds its time limit has its error; a row that the
budget leaves no time for has a note. The table is printed last and written to ``DIR/table.md``.

Worker processes measure the rows; rows that can share libraries and Ray share a worker. If a worker hangs or crashes,
a new one continues with the next row. This process itself imports only the standard library.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

START_S = 120.0
"""Maximum seconds for a worker to start, load its libraries, and start Ray if its first row needs it."""
_RESERVE_S = 2.0  # of the budget, to end the worker and write the table
_LEAST_S = 4.0  # with less of the budget left, no row is started
_END_S = 5.0  # for a worker to shut down its Ray
# Title, pattern of the reference row, pattern of the rows whose best value is compared with it: those that do the same
# work, with as many texts a step and as many checkpoints.
_AT_ONCE = r"(sharing a GPU|at once)"
COMPARED = (
    (
        "best packing, against one trial at a time",
        rf"1 trials {_AT_ONCE}",
        rf"\d+ trials {_AT_ONCE}(, MPS)?",
    ),
    ("best step, against 32 bits in random order", r"step: 32 bits, random order", r"step: (?!.*batch).*"),
)
_SHOWN = 100  # maximum characters of an error in the table


class Worker:
    """A process that measures some rows in order, and writes a line of JSON at the beginning and the end of each."""

    def __init__(self, command: Sequence[str], rows: Sequence[str], known: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [*command, "--worker", json.dumps({"rows": list(rows), "known": known})],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)

    def next_line(self, seconds: float) -> dict[str, Any] | None:
        """Return the next line; None if the process has ended.

        Raises:
            TimeoutError: No line was written in that time.
        """
        try:
            line = self._lines.get(timeout=max(seconds, 0.0))
        except queue.Empty:
            raise TimeoutError from None
        return None if line is None else json.loads(line)

    def end(self) -> int:
        """Terminate the process, which ends its Ray; kill what is left of its group, and return its exit status."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()


def measure(
    rows: Sequence[dict[str, Any]],
    command: Sequence[str],
    budget_s: float,
    keep: Callable[[dict[str, Any]], None],
) -> None:
    """Measure rows until the budget ends; keep the result of every row once, as soon as it is known.

    Args:
        rows: ``name``, ``unit``, ``seconds`` and ``process`` of each.
        command: Command that starts a worker.
        budget_s: Seconds for all rows.
        keep: Called with the result of each row.
    """
    end = time.monotonic() + budget_s - _RESERVE_S
    known: dict[str, Any] = {}
    left = list(rows)

    def done(row: dict[str, Any], found: dict[str, Any]) -> None:
        left.remove(row)
        keep({"row": row["name"], "unit": row["unit"], **found})
        if isinstance(found.get("value"), int | float):
            known[row["name"]] = found["value"]

    while left and end - time.monotonic() > _LEAST_S:
        together = [row for row in left if row["process"] == left[0]["process"]]
        worker = Worker(command, [row["name"] for row in together], known)
        try:
            _watch(worker, together, end, done)
        finally:
            worker.end()
    for row in list(left):
        done(row, {"skipped": f"the budget of {budget_s:g} s leaves no time"})


def _watch(
    worker: Worker,
    rows: Sequence[dict[str, Any]],
    end: float,
    done: Callable[[dict[str, Any], dict[str, Any]], None],
) -> None:
    """Keep the results of a worker until all rows are done, it fails, or a row exceeds its time limit."""
    row, allowed = rows[0], START_S
    for row in rows:
        for allowed in (START_S if row is rows[0] else row["seconds"], row["seconds"]):
            given = min(allowed, end - time.monotonic())
            if given <= 0:
                return  # the row has not begun
            began = time.monotonic()
            try:
                line = worker.next_line(given)
            except TimeoutError:
                late = "the budget ended" if given < allowed else f"took over {allowed:g} s"
                done(row, {"error": late, "seconds": round(time.monotonic() - began, 1)})
                return
            if line is None:
                done(row, {"error": f"its process ended with status {worker.end()}"})
                return
            if "begun" not in line:
                break
        done(row, {**line, "seconds": round(time.monotonic() - began, 1)})


def compared(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each of ``COMPARED``: the best of several rows as a multiple of the reference row."""
    found = []
    for title, first, others in COMPARED:
        values = {each["row"]: each["value"] for each in results if "value" in each}
        rivals = {name: value for name, value in values.items() if re.fullmatch(others, name)}
        base = next((value for name, value in values.items() if re.fullmatch(first, name)), None)
        if base and rivals:
            best = max(rivals, key=lambda name: rivals[name])
            found.append({"row": title, "unit": "x", "value": round(rivals[best] / base, 2), "best": best})
    return found


def table(results: Sequence[dict[str, Any]], heading: str) -> str:
    """Return the table in Markdown."""
    lines = [heading, "", "| row | value | unit | more |", "| --- | ---: | --- | --- |"]
    for found in results:
        details = {
            name: value
            for name, value in found.items()
            if name not in ("row", "unit", "value", "error", "skipped", "seconds")
        }
        more = ", ".join(f"{name} {_shown(value)}" for name, value in details.items())
        failed = found.get("error") or found.get("skipped")
        value = "-" if failed else f"{found['value']:,}"
        remark = more if failed is None else failed[:_SHOWN]
        lines.append(f"| {found['row']} | {value} | {found['unit']} | {remark.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name}: {each}" for name, each in value.items()) + ")"
    return str(value)


def commit_of(root: Path) -> str:
    """Return the commit of a checkout; ``unknown`` for a copy without ``.git``, even inside of another repository."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", f"--git-dir={root / '.git'}", "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return done.stdout.strip()
    return "unknown"


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parsed(arguments)
    if given.worker is not None:
        return work(given)
    given.out.mkdir(parents=True, exist_ok=True)
    options = ["--device", given.device, *(["--tiny"] if given.tiny else [])]
    command = [sys.executable, str(Path(__file__).resolve()), *options]
    listed = subprocess.run([*command, "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout
    rows = [row for row in json.loads(listed) if any(text in row["name"] for text in given.rows or [""])]
    results: list[dict[str, Any]] = []
    with (given.out / "rows.jsonl").open("w", encoding="utf-8") as lines:

        def keep(found: dict[str, Any]) -> None:
            results.append(found)
            for stream in (lines, sys.stdout):
                stream.write(json.dumps(found) + "\n")
                stream.flush()

        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):  # the table is shown in any case
            measure(rows, command, given.budget, keep)
        for found in compared(results):
            keep(found)
    day = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    commit = given.commit or commit_of(Path(__file__).resolve().parents[1])
    heading = f"{day}, commit {commit}: `benchmarks/gpu.py --budget {given.budget:g} {' '.join(options)}`"
    text = table(results, heading)
    (given.out / "table.md").write_text(text, encoding="utf-8")
    print(text, flush=True)
    return 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--budget", type=float, default=420.0, help="seconds for all rows (default: 420)")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder for rows.jsonl and table.md")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to test the command itself")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rows", action="append", help="only rows with this text in their name; repeatable")
    parser.add_argument("--commit", help="commit of this copy, for the table (default: that of the checkout)")
    parser.add_argument("--list", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.list:
        given.worker = json.dumps({"rows": None, "known": {}})
    return given


def work(given: argparse.Namespace) -> int:
    """Measure rows in this process; write their lines to stdout, and redirect the output of libraries to stderr."""
    import logging
    import warnings

    import gpu_rows

    from distiltune.export.benchmark.processes import end_with_parent

    end_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def write(line: Any) -> None:
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    request, rows = json.loads(given.worker), gpu_rows.table_of_rows(device=given.device, tiny=given.tiny)
    if request["rows"] is None:
        names = ("name", "unit", "seconds", "process")
        write([{name: getattr(row, name) for name in names} for row in rows])
        return 0
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    bench = gpu_rows.Bench(given.device, given.tiny, request["known"])

    def end(*_: Any) -> None:
        # Not with an exception: raised inside a destructor of Ray, it would be printed and then ignored.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with suppress(Exception):
            bench.ended.close()
        os._exit(1)

    signal.signal(signal.SIGTERM, end)
    with bench.ended:
        for row in (row for row in rows if row.name in request["rows"]):
            with suppress(Exception):  # what fails, fails again in the row, which then has the error
                row.prepare(bench)
            write({"begun": row.name})
            try:
                write(row.run(bench))
            except Exception as error:
                text = " ".join(str(error).split())
                write(
                    {"error": text if isinstance(error, LookupError) else f"{type(error).__name__}: {text}"}
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
