"""Print a table for each finished run: teacher, student and variants with metric, size, latency and verdict.

    distiltune run benchmarks/tasks/snips_slots.yaml --run-id snips-slots
    python benchmarks/task_table.py distiltune-runs/runs/snips-slots …

The jobs in ``benchmarks/tasks`` read the published files of their data sets from the folder of the job.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from distiltune.cluster.store.runs import Run, Storage
from distiltune.export.markdown import fixed, table

HEADERS = (
    *("model", "test", "validation, against the teacher (95 %)", "MB", "ms", "faster"),
    *("gate: against student and minimum", "against teacher"),
)


def main() -> None:
    """Print the tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="directory of a run")
    for directory in parser.parse_args().runs:
        sys.stdout.write(table_of(directory) + "\n")


def table_of(directory: Path) -> str:
    """Return a run's title and table; latencies are the job's medians of one text, from text to answer."""
    run = Run(Storage(str(directory.parent.parent)).store, directory.name)
    gate = run.stage_record("gate")["result"]
    metric = run.specification().metric
    models = [each for each in gate["variants"] if each["latency_ms"] is not None]
    teacher = next((each for each in models if each["name"] == "teacher-pytorch"), None)
    rows = [row_of(each, teacher, metric, gate["chosen"]) for each in models]
    return f"**{run.id}** ({metric})\n\n{table(HEADERS, rows, left=(0, 6, 7))}"


def row_of(model: dict[str, Any], teacher: dict[str, Any] | None, metric: str, chosen: str) -> list[object]:
    """Return the row of a model; ``teacher`` is None if it was not measured."""
    against, latency_ms = model["against_teacher"], model["latency_ms"]["p50"]
    name = f"{model['name']} (selected)" if model["name"] == chosen else model["name"]
    return [
        name,
        fixed(value_of(model, metric), 4),
        ""
        if against is None
        else f"{against['difference']:+.4f} ({against['low']:+.4f} to {against['high']:+.4f})",
        "" if model["size_mb"] is None else f"{model['size_mb']:.2f}",
        f"{latency_ms:.3f}",
        "" if teacher is None else f"{teacher['latency_ms']['p50'] / latency_ms:.1f}x",
        model["gate"] or "",
        model["teacher_gate"] or "",
    ]


def value_of(model: dict[str, Any], metric: str) -> float | None:
    """Return a metric of a model on the test split, from the field of that name or from the task's metrics.

    The reference has none.
    """
    own, measured = model.get(metric), model["metrics"]
    return own if own is not None or measured is None else measured[metric]["test"]


if __name__ == "__main__":
    main()
