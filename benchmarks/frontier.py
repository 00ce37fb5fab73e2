"""Measure the front of accuracy, latency and size: the students of a file, each with several seeds.

    python benchmarks/frontier.py benchmarks/compression/frontier.yaml --storage DIR [--only NAME ...]
        [--seeds 42 43 44] [--json FILE] [--picture FILE] [--untimed]

The file is one of ``benchmarks/techniques.py``; paths in it are relative to the working directory. Every change runs
once for each ``training.seed``; finished runs are not repeated. Accuracies are of the variant that the first seed's
run selected, on the test split, which selects nothing: the mean over seeds with the least and greatest.

Then the artifact of each first seed is timed from text to label on one thread, in turns with BERT-base in PyTorch:
with ``tokenizers``, and with the extra ``fast`` where it is installed. Nothing else should run on the machine then.
Sizes are those of all files that the runtime reads. ``--json`` keeps the figures of other changes that the file has,
and ``--picture`` draws all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from techniques import load_yaml, run_changed

from distiltune import TextClassifier
from distiltune.cluster.specification.config import JobConfig
from distiltune.cluster.store.runs import Run
from distiltune.drawing import new_figure, save, tidy
from distiltune.export.benchmark.measurements import median_text, runtime_bytes
from distiltune.export.benchmark.targets.base import OpenOptions
from distiltune.export.benchmark.targets.reference_model import write_reference
from distiltune.export.machine import describe_machine
from distiltune.export.markdown import table
from distiltune.export.selection.interleaved import latency_ratio, time_in_turns
from distiltune.export.selection.timed_process import TimedProcess
from distiltune.storage.temporary import temporary_directory
from distiltune.training.checkpoints.offline import offline_directory
from distiltune.training.data.text_data import load_data

MAX_LENGTH = 64
"""Tokens of a text at most; only the reference needs it."""
HEADERS = (
    *("artifact", "accuracy with threshold", "in scope, without", "10^6 bytes"),
    *("text to label, µs", "faster than BERT-base", "with `fast`, µs", "faster"),
)
REFERENCE = "reference"
NUM_ROUNDS, SECONDS_PER_MODEL = 24, 20.0
_BLUE, _GREY = "#1f77b4", "#666666"


def main() -> None:
    """Run, time, print and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="YAML file with a job and its changes")
    parser.add_argument("--storage", default="distiltune-runs", help="run store (default: distiltune-runs)")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="only these changes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44], help="seeds of the students")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="also draw them into this PNG file")
    parser.add_argument("--untimed", action="store_true", help="only run: for several processes side by side")
    arguments = parser.parse_args()
    given = load_yaml(arguments.file)
    job, changes = given["job"], given["changes"]
    runs = {
        name: [
            run_changed(job, {**changes[name], "training.seed": seed}, f"{name}-{seed}", arguments.storage)
            for seed in arguments.seeds
        ]
        for name in changes
        if not arguments.only or name in arguments.only
    }
    if arguments.untimed:
        return
    found = {name: accuracies(each) for name, each in runs.items()}
    add_times(found, job, {name: each[0] for name, each in runs.items()})
    if arguments.json:
        if arguments.json.exists():
            found = json.loads(arguments.json.read_text(encoding="utf-8")) | found
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(table_of(found))
    if arguments.picture:
        draw(found, arguments.picture)


def accuracies(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the name of the variant that the first run selected, and its accuracies on test in every run."""
    gates = [run.stage_record("gate")["result"] for run in runs]
    rows = [next(row for row in gate["variants"] if row["name"] == gates[0]["chosen"]) for gate in gates]
    return {
        "variant": gates[0]["chosen"],
        "with_threshold": [(row["with_threshold"] or {}).get("accuracy") for row in rows],
        "in_scope": [row["in_scope_accuracy"] for row in rows],
    }


def add_times(found: dict[str, dict[str, Any]], job: JobConfig, runs: dict[str, Run]) -> None:
    """Time the selected variants of these runs in turns with BERT-base; add their sizes, times and the machine."""
    query = median_text(load_data(job.data).validation.texts)
    with ExitStack() as stack:
        folders = {
            name: Path(run.store.fetch(run.variant(found[name]["variant"]))) for name, run in runs.items()
        }
        models = {}

        def open_model(name: str, kind: str, directory: Path, tokenizer: str = "tokenizers") -> None:
            scratch = stack.enter_context(temporary_directory("frontier"))
            options = OpenOptions(str(directory), MAX_LENGTH, None, 1, None, job.task, tokenizer=tokenizer)
            models[name] = stack.enter_context(TimedProcess(name, kind, options, query, scratch))

        reference = stack.enter_context(temporary_directory("frontier")) / REFERENCE
        labels = TextClassifier.load(next(iter(folders.values()))).labels
        write_reference(offline_directory(), reference, num_labels=len(labels))
        open_model(REFERENCE, "pytorch", reference)
        for name, folder in folders.items():
            open_model(name, "onnx", folder)
            found[name]["tokenizer"] = TextClassifier.load(folder, tokenizer="fast").tokenizer_name
            if found[name]["tokenizer"] != "tokenizers":
                open_model(f"{name}, fast", "onnx", folder, "fast")
        for model in models.values():
            model()  # returns when the model is opened
        blocks = time_in_turns(models, NUM_ROUNDS, SECONDS_PER_MODEL * len(models))
    for name, folder in folders.items():
        times = {
            key: latency_ratio(blocks[timed], blocks[REFERENCE], NUM_ROUNDS).to_json()
            for key, timed in (("times", name), ("times_fast", f"{name}, fast"))
            if timed in blocks
        }
        found[name] |= {"bytes": runtime_bytes(folder), **times, "machine": describe_machine()}


def table_of(found: dict[str, dict[str, Any]]) -> str:
    """Return the figures as a Markdown table."""
    rows = [
        [
            name,
            spread(each["with_threshold"]),
            spread(each["in_scope"]),
            f"{each['bytes'] / 1e6:.2f}",
            *(cell for key in ("times", "times_fast") for cell in time_cells(each.get(key))),
        ]
        for name, each in found.items()
    ]
    return table(HEADERS, rows)


def spread(values: Sequence[float | None]) -> str:
    """Return the mean of some numbers, with the least and greatest; a dash where there are none."""
    numbers = [each for each in values if each is not None]
    if not numbers:
        return "-"
    return f"{statistics.fmean(numbers):.4f} ({min(numbers):.4f} to {max(numbers):.4f})"


def time_cells(times: dict[str, Any] | None) -> list[str]:
    """Return the microseconds of a text and how many times faster than BERT-base that is, with its interval."""
    if times is None:
        return ["-", "-"]
    return [
        f"{1000 * times['own_ms']:.1f}",
        f"{times['faster']:,.0f}x ({times['low']:,.0f} to {times['high']:,.0f})",
    ]


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw accuracy against speed; the bar of a mark is the range over seeds, and its area grows with the size."""
    figure = new_figure(9.0, 4.5)
    axes = tidy(figure.add_subplot())
    for name, each in found.items():
        values = [
            100 * value
            for value in (each["with_threshold"] if any(each["with_threshold"]) else each["in_scope"])
        ]
        mean, size, faster = statistics.fmean(values), each["bytes"] / 1e6, each["times"]["faster"]
        axes.plot([faster, faster], [min(values), max(values)], color=_GREY, linewidth=1.2, zorder=2)
        axes.scatter(faster, mean, s=30 * size, color=_BLUE, zorder=3)
        axes.annotate(
            f"{name}\n{mean:.1f} %, {faster:,.0f}x, {size:.1f} MB",
            (faster, mean),
            xytext=(10, -4),
            textcoords="offset points",
            va="top",
            fontsize=9,
        )
    axes.set(
        xscale="log", xlabel="times as fast as BERT-base in PyTorch (one text, one thread, text to label)"
    )
    axes.set_ylabel("test accuracy, %")
    axes.margins(x=0.25, y=0.2)
    save(figure, path)


if __name__ == "__main__":
    main()
