"""The command `check`: check that a job can run, and show what it would do."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer

from ...errors import RunFailedError, RunInterruptedError
from ...progress import Progress
from .options import JsonOption, SetOption, SourceArgument, StorageOption, echo_json

app = typer.Typer()


@app.command()
def check(
    source: SourceArgument = None,
    overrides: SetOption = None,
    storage: StorageOption = None,
    no_forecast: Annotated[
        bool,
        typer.Option("--no-forecast", help="Do not measure how much time, disk and memory the job needs."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a job, its data and its models, show what it would do, and forecast time, disk and memory of each stage.

    The forecast takes up to a minute: it measures a few steps of teacher and trials, and exports a graph. Nothing is
    kept.
    """
    from ..pipeline.checks.preflight import check_job
    from ..specification.config import load_config
    from ..store.runs import Storage, own_name

    config = load_config(source, overrides or [], storage)
    job = check_job(config, Storage(config.storage.path, config.storage.retry_s))
    found = _overview(job)
    if not as_json:
        for name, text in found.items():
            typer.echo(f"{name:<10} {text}")
    forecast, reason = (None, "--no-forecast") if no_forecast else _forecast(job)
    if as_json:
        values = (
            {"forecast": None, "no_forecast": reason}
            if forecast is None
            else {"forecast": forecast.to_json()}
        )
        echo_json({**found, **values})
        return
    if forecast is not None:
        from ..pipeline.forecast.table import lines_of

        typer.echo("")
        for line in lines_of(forecast):
            typer.echo(line)
    command = [
        "run",
        *([source] if source else []),
        *(part for each in overrides or [] for part in ("--set", each)),
        *(["--storage", storage] if storage else []),
    ]
    typer.echo(f"no fault found; run it: {own_name()} {shlex.join(command)}", err=True)


def _forecast(job: Any) -> tuple[Any, str]:
    """Return the forecast of a checked job; None and the reason if there is none."""
    from ..pipeline.forecast.forecast import forecast_job, why_not

    reason = why_not(job)
    if reason is not None:
        typer.echo(f"no forecast: {reason}", err=True)
        return None, reason

    def report(progress: Progress) -> None:
        typer.echo(f"forecast: {progress.message}", err=True)

    try:
        forecast = forecast_job(job, report)
    except KeyboardInterrupt:
        raise RunInterruptedError("interrupted; the job has no fault, and nothing was stored") from None
    except RunFailedError as error:
        typer.echo(f"no forecast: {error}", err=True)
        return None, str(error)
    for warning in forecast.warnings():
        typer.echo(f"WARNING: {warning}", err=True)
    return forecast, ""


def _overview(job: Any) -> dict[str, str]:
    """Return a line on what a checked job would do for each section."""
    from ...search.space.students import student_sections
    from ..pipeline.run_job import describe_data, few_labels_of

    config, data = job.config, job.data
    few, few_in_words = few_labels_of(job)
    lines = {"data": describe_data(job)[1], "labels": _labels(data)}
    if few is not None and not few.are_most:
        lines["labels"] += f"; {few_in_words}"
    if job.lengths is not None:
        lengths = job.lengths
        lines["lengths"] = (
            f"99 % of the training texts have at most {lengths.p99} tokens; max_length {lengths.max_length}"
            f"{' (auto)' if lengths.automatic else ''}"
        )
    space = ", ".join(f"{name} {_range(each)}" for name, each in config.search.space.items())
    return {
        **lines,
        "teacher": _teachers(config.teacher),
        "student": " or ".join(
            _student(each) for each, _ in student_sections(config.student, config.search.space)
        ),
        "search": f"{config.search.num_trials} trials over {space}",
        "export": ", ".join(config.export.variants),
        "storage": config.storage.path,
    }


def _labels(data: Any) -> str:
    """Summarise the labels: the one with the fewest training texts, or the range of the numbers to learn."""
    names, labels = data.label_names, data.splits["train"]["label"][:]
    counts = data.label_kind.counts(labels, names)
    if (own_summary := data.label_kind.summary(labels, names)) is not None:
        return own_summary
    if counts is None:
        columns = zip(*labels, strict=True)
        return "; ".join(
            f"{name} from {min(values):g} to {max(values):g}"
            for name, values in zip(names, columns, strict=True)
        )
    label, fewest = min(counts.items(), key=lambda each: (each[1], each[0]))
    return f"at least {fewest:,} training texts each ({label!r} has the fewest)"


def _teachers(teacher: Any) -> str:
    if not teacher.are_different:
        return _teacher(teacher.first) + (f", {teacher.ensemble} of them" if teacher.ensemble > 1 else "")
    total = sum(teacher.given_weights)
    shares = [weight / total for weight in teacher.given_weights]
    is_fitted = teacher.weights == "fit"
    named = [
        _teacher(each) + ("" if is_fitted else f" (weight {share:.2f})")
        for each, share in zip(teacher.members, shares, strict=True)
    ]
    how = "; their weights are fitted on the validation split" if is_fitted else ""
    return f"{len(named)}: {'; '.join(named)}{how}"


def _teacher(teacher: Any) -> str:
    if teacher.checkpoint is not None:
        return f"{teacher.checkpoint}, as it is"
    if teacher.logits is not None:
        return f"the logits of {teacher.logits.path}"
    tuned = teacher.fine_tune
    how = f"{tuned.checkpoint}, fine-tuned" if tuned else "a small BERT trained from scratch"
    epochs = (tuned or teacher.scratch).num_train_epochs
    pairs = tuned.contrastive if tuned else None
    before = f"{pairs.num_train_epochs} epochs on pairs and " if pairs else ""
    return f"{how} for {before}{epochs} epochs"


def _student(student: Any) -> str:
    if not student.has_layers:
        return f"{student.kind}: {student.shape_in_words()}"
    if student.source is not None:
        return str(student.source)
    return f"layers {student.layers} of the teacher"


def _range(parameter: Any) -> str:
    from ...search.parameters import FloatRange, IntRange

    values = (f"{each:g}" if isinstance(each, float) else str(each) for each in parameter.end_values())
    return (" to " if isinstance(parameter, FloatRange | IntRange) else ", ").join(values)
