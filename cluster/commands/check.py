"""The command check: whether a job can run, and what it would do."""

from __future__ import annotations

import shlex
from typing import Any

import typer

from .options import JsonOption, SetOption, SourceArgument, StorageOption, echo_json

app = typer.Typer()


@app.command()
def check(
    source: SourceArgument = None,
    overrides: SetOption = None,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a job, its data and its models, and show what it would do; nothing is trained or stored."""
    from ..pipeline.preflight import check_job
    from ..specification.config import load_config
    from ..store.runs import Storage, own_name

    config = load_config(source, overrides or [], storage)
    job = check_job(config, Storage(config.storage.path, config.storage.retry_s))
    found = _overview(job)
    if as_json:
        echo_json(found)
        return
    for name, text in found.items():
        typer.echo(f"{name:<10} {text}")
    command = [
        "run",
        *([source] if source else []),
        *(part for each in overrides or [] for part in ("--set", each)),
    ]
    typer.echo(f"no fault found; run it: {own_name()} {shlex.join(command)}", err=True)


def _overview(job: Any) -> dict[str, str]:
    """Return what a checked job would do, a line for each section."""
    from collections import Counter

    from ..pipeline.run_job import describe_data

    config, data = job.config, job.data
    counts = Counter(data.splits["train"]["label"][:])
    label, fewest = min(counts.items(), key=lambda each: (each[1], each[0]))
    lines = {
        "data": describe_data(job)[1],
        "labels": f"at least {fewest:,} training texts each ({data.label_names[label]!r} has the fewest)",
    }
    if job.lengths is not None:
        lengths = job.lengths
        lines["lengths"] = (
            f"99 % of the training texts have at most {lengths.p99} tokens; max_length {lengths.max_length}"
            f"{' (auto)' if lengths.automatic else ''}"
        )
    space = ", ".join(f"{name} {_range(each)}" for name, each in config.search.space.items())
    return {
        **lines,
        "teacher": _teacher(config.teacher),
        "student": _student(config.student),
        "search": f"{config.search.num_trials} trials over {space}",
        "export": ", ".join(config.export.variants),
        "storage": config.storage.path,
    }


def _teacher(teacher: Any) -> str:
    if teacher.checkpoint is not None:
        return f"{teacher.checkpoint}, as it is"
    tuned = teacher.fine_tune
    how = f"{tuned.checkpoint}, fine-tuned" if tuned else "a small BERT trained from scratch"
    epochs = (tuned or teacher.scratch).num_train_epochs
    several = f", {teacher.ensemble} of them" if teacher.ensemble > 1 else ""
    return f"{how} for {epochs} epochs{several}"


def _student(student: Any) -> str:
    if student.source is not None:
        return str(student.source)
    return f"layers {student.layers} of the teacher"


def _range(parameter: Any) -> str:
    from ...search.parameters import FloatRange, IntRange

    values = (f"{each:g}" if isinstance(each, float) else str(each) for each in parameter.end_values())
    return (" to " if isinstance(parameter, FloatRange | IntRange) else ", ").join(values)
