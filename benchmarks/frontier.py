"""Measure the front of accuracy, latency and size: the students of a file, each with several seeds.

    python benchmarks/frontier.py benchmarks/compression/frontier.yaml --storage DIR [--only NAME[:SEED,...] ...]
        [--seeds 42 43 44] [--json FILE] [--picture FILE] [--untimed]

The file has the format of ``benchmarks/techniques.py``; paths in it are relative to the working directory. Every change
runs once for each ``training.seed``, as ``FILE-CHANGE-SEED``; finished runs are not repeated. With ``after``, the name
of another change, it begins with the student that this one has trained with the same seed. Accuracies are of the
variant that the first seed's run selected, on the test split, which selects nothing: the mean over seeds with the
least and greatest.

Then the artifact of each first seed is timed from text to label on one thread, in turns with BERT-base and the first
teacher in PyTorch: with ``tokenizers``, and with the extra ``fast`` where it is installed. Nothing else should run on
the machine then. Sizes of artifacts are those of all files that the runtime reads, of the others those of the weights.
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

from techniques import check_names, load_yaml, run_changed

from distiltune import TextClassifier
from distiltune.cluster.specification.config import JobConfig
from distiltune.cluster.store.runs import Run
from distiltune.drawing import new_figure, save, tidy
from distiltune.export.benchmark.measurements import median_text, model_bytes, runtime_bytes
from distiltune.export.benchmark.targets.base import OpenOptions
from distiltune.export.benchmark.targets.reference_model import write_reference
from distiltune.export.machine import describe_machine
from distiltune.export.markdown import table
from distiltune.export.selection.interleaved import latency_ratio, time_in_turns
from distiltune.export.selection.timed_process import TimedProcess
from distiltune.storage.temporary import temporary_directory
from distiltune.training.data.text_data import load_data

HEADERS = (
    *("model", "accuracy with threshold", "in scope, without", "10^6 bytes"),
    *("text to label, µs", "faster than BERT-base", "with extra fast, µs", "faster"),
)
REFERENCE, TEACHER = "BERT-base, PyTorch", "teacher, PyTorch"
NUM_ROUNDS, SECONDS_PER_MODEL = 24, 20.0
_TICKS = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]
_BLUE, _GREY = "#1f77b4", "#666666"
Figures = dict[str, dict[str, Any]]
"""Name of each model → its figures."""


def main() -> None:
    """Run, time, print and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="YAML file with a job and its changes")
    parser.add_argument("--storage", default="distiltune-runs", help="run store (default: distiltune-runs)")
    parser.add_argument(
        "--only", nargs="*", metavar="NAME", help="only these changes; accurate:42,43 has own seeds"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44], help="seeds of the students")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="also draw them into this PNG file")
    parser.add_argument(
        "--untimed", action="store_true", help="accuracies alone, such as for several processes side by side"
    )
    arguments = parser.parse_args()
    if arguments.untimed and arguments.picture:
        parser.error("--picture shows latencies, which --untimed leaves out")
    given = load_yaml(arguments.file)
    job, changes = given["job"], given["changes"]
    seeds = dict(seeds_of(each, arguments.seeds) for each in arguments.only or changes)
    check_names(parser, seeds, changes)

    def run(name: str, seed: int) -> Run:
        change = {**changes[name], "training.seed": seed}
        if (wide := change.pop("after", None)) is not None:
            trained = run(wide, seed)
            change["student"] = {
                **change["student"],
                "trained": str(trained.store.fetch(trained.key("best"))),
            }
        return run_changed(job, change, f"{arguments.file.stem}-{name}-{seed}", arguments.storage)

    runs = {name: [run(name, seed) for seed in own] for name, own in seeds.items()}
    found = {name: artifact_figures(each) for name, each in runs.items()}
    first = next(iter(runs.values()))[0]
    found[TEACHER] = {"variant": "teacher-pytorch", **accuracies([row_of(first, "teacher-pytorch")])}
    if not arguments.untimed:
        found[REFERENCE] = {"with_threshold": [], "in_scope": []}
        add_times(found, job, {name: each[0] for name, each in runs.items()})
    if arguments.json:
        record = {"machine": describe_machine(), "seeds": seeds, "models": found}
        arguments.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(table_of(found))
    if arguments.picture:
        draw(found, arguments.picture)


def seeds_of(given: str, seeds: list[int]) -> tuple[str, list[int]]:
    """Return the name of a change and its seeds, from ``NAME`` or ``NAME:SEED,SEED``."""
    name, _, own = given.partition(":")
    return name, [int(each) for each in own.split(",")] if own else seeds


def artifact_figures(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the name of the variant that the first run selected, and its accuracies on test in every run."""
    name = runs[0].stage_record("gate")["result"]["chosen"]
    return {"variant": name, **accuracies([row_of(run, name) for run in runs])}


def row_of(run: Run, name: str) -> dict[str, Any]:
    """Return a model's measurements in a run."""
    return next(row for row in run.stage_record("gate")["result"]["variants"] if row["name"] == name)


def accuracies(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the accuracies of some measurements on test; the first of them is None without a threshold."""
    return {
        "with_threshold": [(row["with_threshold"] or {}).get("accuracy") for row in rows],
        "in_scope": [row["in_scope_accuracy"] for row in rows],
    }


def add_times(found: Figures, job: JobConfig, runs: dict[str, Run]) -> None:
    """Time the selected variants of these runs in turns with teacher and BERT-base, and add times and sizes."""
    data = load_data(job.data)
    query, max_length = median_text(data.splits["validation"]["text"][:]), job.training.num_tokens
    with ExitStack() as stack:
        models = {}

        def open_model(name: str, kind: str, directory: Path, tokenizer: str = "tokenizers") -> None:
            scratch = stack.enter_context(temporary_directory("frontier"))
            options = OpenOptions(str(directory), max_length, None, 1, None, job.task, tokenizer=tokenizer)
            models[name] = stack.enter_context(TimedProcess(name, kind, options, query, scratch))

        for name, run in runs.items():
            folder = Path(run.store.fetch(run.variant(found[name]["variant"])))
            found[name]["bytes"] = runtime_bytes(folder)
            open_model(name, "onnx", folder)
            found[name]["tokenizer"] = TextClassifier.load(folder, tokenizer="fast").tokenizer_name
            if found[name]["tokenizer"] != "tokenizers":
                open_model(f"{name}, fast", "onnx", folder, "fast")
        run = next(iter(runs.values()))
        teacher = Path(run.store.fetch(run.stage_record("teacher")["result"]["key"]))
        found[TEACHER]["bytes"] = model_bytes(teacher)
        open_model(TEACHER, "pytorch", teacher)
        reference = stack.enter_context(temporary_directory("frontier")) / "reference"
        found[REFERENCE]["bytes"] = write_reference(teacher, reference, num_labels=len(data.label_names))
        open_model(REFERENCE, "pytorch", reference)
        for model in models.values():
            model()  # returns when the model is opened
        blocks = time_in_turns(models, NUM_ROUNDS, SECONDS_PER_MODEL * len(models))
    for name, figures in found.items():
        for key, timed in (("times", name), ("times_fast", f"{name}, fast")):
            if timed in blocks:
                figures[key] = latency_ratio(blocks[timed], blocks[REFERENCE], NUM_ROUNDS).to_json()


def table_of(found: Figures) -> str:
    """Return the figures as a Markdown table."""
    rows = [
        [
            name,
            spread(each["with_threshold"]),
            spread(each["in_scope"]),
            f"{each['bytes'] / 1e6:.2f}" if "bytes" in each else "-",
            *(cell for key in ("times", "times_fast") for cell in time_cells(each.get(key), name)),
        ]
        for name, each in found.items()
    ]
    return table(HEADERS, rows)


def spread(values: Sequence[float | None]) -> str:
    """Return the mean of some numbers, with the least and greatest; a dash where there are none."""
    numbers = [each for each in values if each is not None]
    if not numbers:
        return "-"
    if len(numbers) == 1:
        return f"{numbers[0]:.4f}"
    return f"{statistics.fmean(numbers):.4f} ({min(numbers):.4f} to {max(numbers):.4f})"


def time_cells(times: dict[str, Any] | None, name: str) -> list[str]:
    """Return the microseconds of a text and how many times faster than BERT-base that is, with its interval."""
    if times is None:
        return ["-", "-"]
    faster = f"{times['faster']:,.0f}x ({times['low']:,.0f} to {times['high']:,.0f})"
    return [f"{1000 * times['own_ms']:,.1f}", "-" if name == REFERENCE else faster]


def draw(found: Figures, path: Path) -> None:
    """Draw accuracy against latency; a mark's line is the range over seeds, and its area grows with the size."""
    figure = new_figure(9.0, 4.6)
    axes = tidy(figure.add_subplot())
    has_threshold = any(found[TEACHER]["with_threshold"])
    times = [each["times"]["own_ms"] for each in found.values()]
    for name, each in found.items():
        values = [100 * value for value in each["with_threshold" if has_threshold else "in_scope"] if value]
        milliseconds, size = each["times"]["own_ms"], each["bytes"] / 1e6
        cost = f"{milliseconds:.3g} ms, {size:.3g} MB"
        if not values:
            axes.axvline(milliseconds, color=_GREY, linestyle="--", linewidth=1)
            lines = [name, cost, "(latency and size only)"]
            place, coordinates = 0.03, ("data", "axes fraction")
            offset, alignment, color = (-6, 0), "right", _GREY
        else:
            place, coordinates, color = statistics.fmean(values), "data", _GREY if name == TEACHER else _BLUE
            axes.plot([milliseconds] * 2, [min(values), max(values)], color=color, linewidth=1.5, zorder=2)
            axes.scatter(milliseconds, place, s=20 + 8 * size, color=color, zorder=3)
            faster = "" if name == TEACHER else f", {each['times']['faster']:,.0f}x"
            lines = [name, f"{place:.1f} %{faster}", cost]
            is_fastest = milliseconds == min(times)  # its label would cover the next model
            offset = ((-1 if is_fastest else 1) * (8 + size**0.5), -4)
            alignment = "right" if is_fastest else "left"
        axes.annotate(
            "\n".join(lines),
            (milliseconds, place),
            xycoords=coordinates,
            xytext=offset,
            textcoords="offset points",
            ha=alignment,
            va="top" if values else "bottom",
            fontsize=9,
            color=color,
        )
    axes.set(xscale="log", xlabel="latency of one text, ms (one CPU thread, text to label; logarithmic)")
    axes.set_xticks(_TICKS, labels=list(map(str, _TICKS)))
    axes.minorticks_off()
    axes.set_xlim(min(times) / 5, max(times) * 1.5)
    axes.set_ylabel("test accuracy with threshold, %" if has_threshold else "test accuracy, %")
    axes.margins(y=0.25)
    save(figure, path)


if __name__ == "__main__":
    main()
