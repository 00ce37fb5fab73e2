"""Write a public data set as one shuffled CSV, and tabulate the runs of jobs that `init` made for it.

    python benchmarks/first_contact.py csv clinc150 DIR clinc150.csv
    distiltune init clinc150.csv
    distiltune run job.yaml --run-id clinc150
    python benchmarks/first_contact.py table distiltune-runs/runs/clinc150 …

DIR has the published files of the data set: data_oos_plus.json (CLINC150); train.csv, validation.csv and test.csv with
the columns text and intent (SNIPS); train.jsonl, validation.jsonl and test.jsonl (GoEmotions, of which only texts with
exactly one label are used). All splits are joined and shuffled; the job holds out its own.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distiltune.cluster.store.runs import Run, Storage
from distiltune.export.markdown import table

SPLITS = ("train", "validation", "test")


def main() -> None:
    """Write a CSV, or print a table of runs in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    to_csv = commands.add_parser("csv", help="write all texts of a data set as one shuffled CSV")
    to_csv.add_argument("dataset", choices=sorted(READERS))
    to_csv.add_argument("directory", type=Path, help="folder with its published files")
    to_csv.add_argument("out", type=Path, help="CSV to write")
    to_csv.add_argument("--seed", type=int, default=0, help="seed of the order")
    to_table = commands.add_parser("table", help="print a table of finished runs")
    to_table.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="directory of a run")
    arguments = parser.parse_args()
    if arguments.command == "csv":
        write_csv(list(READERS[arguments.dataset](arguments.directory)), arguments.out, arguments.seed)
    else:
        sys.stdout.write(table_of(arguments.runs))


def read_clinc150(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield text and label of every text of CLINC150, out-of-scope texts included."""
    content = json.loads((directory / "data_oos_plus.json").read_text(encoding="utf-8"))
    for rows in content.values():
        yield from ((text, label) for text, label in rows)


def read_snips(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield text and intent of every text of SNIPS."""
    for split in SPLITS:
        with (directory / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            yield from ((row["text"], row["intent"]) for row in csv.DictReader(file))


def read_goemotions(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield text and label of the texts of GoEmotions that have one label."""
    for split in SPLITS:
        for line in (directory / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if len(row["labels"]) == 1:
                yield row["text"], row["labels"][0]


READERS: dict[str, Callable[[Path], Iterator[tuple[str, str]]]] = {
    "clinc150": read_clinc150,
    "snips": read_snips,
    "goemotions": read_goemotions,
}


def write_csv(rows: list[tuple[str, str]], out: Path, seed: int) -> None:
    """Write the columns text and label, shuffled with a seed."""
    random.Random(seed).shuffle(rows)
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(rows)


def table_of(directories: list[Path]) -> str:
    """Return the table of finished runs, with a row for each; accuracies are those of the test split."""
    return table(
        (
            "run",
            "teacher in scope",
            "artifact in scope",
            "difference (95 %)",
            "chosen",
            "MB",
            "faster",
            "smaller",
            "calibration error",
            "teacher s",
            "search s",
            "export s",
            "benchmark s",
            "total min",
        ),
        [row_of(directory) for directory in directories],
        left=(0, 4),
    )


def row_of(directory: Path) -> list[object]:
    """Return the row of a run."""
    run = Run(Storage(str(directory.parent.parent)).store, directory.name)
    gate = run.stage_record("gate")["result"]
    measured = {each["name"]: each for each in gate["variants"]}
    teacher, chosen, against = (
        measured["teacher-pytorch"],
        measured[gate["chosen"]],
        gate["against_teacher"],
    )
    error = chosen["calibration"]["in_scope_error_after"]
    seconds = {stage["name"]: stage["seconds"] or 0.0 for stage in stages(run)}
    return [
        run.id,
        f"{teacher['in_scope_accuracy']:.4f}",
        f"{chosen['in_scope_accuracy']:.4f}",
        f"{against['difference']:+.4f} ({against['low']:+.4f} to {against['high']:+.4f})",
        gate["chosen"],
        f"{chosen['size_mb']:.2f}",
        f"{against['faster']:.1f}x",
        f"{against['smaller']:.1f}x",
        f"{error:.3f}",
        *(f"{seconds.get(name, 0.0):.0f}" for name in ("teacher", "search", "export", "benchmark")),
        f"{sum(seconds.values()) / 60:.1f}",
    ]


def stages(run: Run) -> list[dict[str, Any]]:
    """Return the stages of a run with their seconds."""
    from distiltune.cluster.watching.show import summary

    return summary(run)["stages"]


if __name__ == "__main__":
    main()
