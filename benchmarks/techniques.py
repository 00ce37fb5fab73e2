"""Measure compression techniques: one job with one change at a time, each in a run of its own.

    python benchmarks/techniques.py benchmarks/compression/techniques.yaml --storage DIR [--only NAME ...] [--json FILE]

The file has a ``job``, and under ``changes`` the name of each change with the keys of the job that it sets, or the name
of a file beside it that has them. Paths in it are relative to the working directory. A run is one training with exports
and benchmark, like `distiltune train`; finished runs are not repeated. Prints a Markdown table with the student in 32
bits and its ONNX variants for every change. The test split is reported and selects nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from distiltune.cluster.pipeline.run_job import run_job
from distiltune.cluster.plan.plan import changed
from distiltune.cluster.specification.config import JobConfig, without_search
from distiltune.cluster.specification.reading import parse_yaml
from distiltune.cluster.store.runs import Run
from distiltune.cluster.watching.console import ProgressPrinter
from distiltune.export.benchmark import targets

HEADERS = (
    "change",
    "variant",
    "validation",
    "test",
    "in-scope",
    "with threshold",
    "MB",
    "zipped MB",
    "p50 ms",
)


def main() -> None:
    """Run the changed jobs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", type=Path, help="YAML file with a job and its changes")
    parser.add_argument("--storage", default="distiltune-runs", help="run store (default: distiltune-runs)")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="only these changes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows of every run here")
    arguments = parser.parse_args()
    given = load_yaml(arguments.file)
    names = arguments.only or list(given["changes"])
    check_names(parser, names, given["changes"])
    found = {}
    for name in names:
        found[name] = rows_of(given["job"], given["changes"][name], name, arguments.storage)
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(table(found))


def check_names(parser: argparse.ArgumentParser, names: Iterable[str], changes: dict[str, Any]) -> None:
    """End with a message if some names given with ``--only`` are not those of changes."""
    if unknown := [name for name in names if name not in changes]:
        parser.error(f"--only: {', '.join(unknown)} not in the file, which has {', '.join(changes)}")


def load_yaml(path: Path) -> dict[str, Any]:
    """Read the job and its changes like a job file; paths stay relative to the working directory."""
    whole = parse_yaml(path.read_text(encoding="utf-8"))
    changes = whole["changes"]
    if isinstance(changes, str):
        changes = parse_yaml((path.parent / changes).read_text(encoding="utf-8"))["changes"]
    return {"job": JobConfig.model_validate(whole["job"]), "changes": changes}


def rows_of(job: JobConfig, changes: dict[str, Any], name: str, storage: str) -> list[dict[str, Any]]:
    """Run the job with these changes; return its measured rows."""
    rows = run_changed(job, changes, name, storage).stage_record("gate")["result"]["variants"]
    return [{name: value for name, value in row.items() if name != "curves"} for row in rows]


def run_changed(job: JobConfig, changes: dict[str, Any], name: str, storage: str) -> Run:
    """Run the job with these changes, or find the finished run of that name."""
    for key, value in {**changes, "storage.path": storage}.items():
        job = changed(job, key, value)
    run_id = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    with redirect_stdout(sys.stderr), ProgressPrinter() as printer:
        return run_job(without_search(job), "techniques", run_id=run_id, listener=printer)


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Return all rows as a Markdown table."""
    lines = ["| " + " | ".join(HEADERS) + " |", "| --- | --- |" + " ---: |" * (len(HEADERS) - 2)]
    for change, rows in found.items():
        for row in rows:
            if row["name"] == "student-pytorch" or targets.get(row["kind"]).can_be_sealed:
                thresholded = (row.get("with_threshold") or {}).get("accuracy")
                figures = [row["validation_accuracy"], row["accuracy"], row["in_scope_accuracy"], thresholded]
                sizes = [row["size_mb"], row.get("compressed_size_mb"), row["latency_ms"]["p50"]]
                cells = [shown(each, 4) for each in figures] + [shown(each, 2) for each in sizes]
                lines.append("| " + " | ".join([change, row["name"], *cells]) + " |")
    return "\n".join(lines) + "\n"


def shown(value: float | None, digits: int) -> str:
    """Return a number as text, or a dash if there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    main()
