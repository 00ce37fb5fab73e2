"""Commands on the user's texts: evaluate an artifact on labelled texts, and label texts with a teacher."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import InputError, shown
from .measure import pair_column_of, read_given_texts
from .options import ArtifactArgument, JsonOption, StorageOption, echo_json

if TYPE_CHECKING:
    from rich.console import Console

    from ...export.runtime.classifier import TextClassifier
    from ...training.data.rows import Split
    from ...training.tasks import Task

app = typer.Typer()

_MOST_CONFUSIONS = 10


@app.command()
def evaluate(
    directory: ArtifactArgument,
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Labelled texts, in any form that data.train takes.")
    ],
    text_column: Annotated[
        str | None,
        typer.Option(
            "--text-column",
            metavar="NAME",
            help="Column with the text. Default: text; question where the artifact answers questions.",
        ),
    ] = None,
    text_pair_column: Annotated[
        str | None,
        typer.Option(
            "--text-pair-column",
            metavar="NAME",
            help="Column with the second text, where the artifact takes pairs. Default: text_pair, or context.",
        ),
    ] = None,
    label_column: Annotated[
        list[str] | None,
        typer.Option(
            "--label-column",
            metavar="NAME",
            help="Column with the label, the labels or the number; may be repeated, as data.label_columns. "
            "Default: label, or answers.",
        ),
    ] = None,
    label_separator: Annotated[
        str | None,
        typer.Option(
            "--label-separator", metavar="TEXT", help="Separator between several labels of one text."
        ),
    ] = None,
    slice_columns: Annotated[
        list[str] | None,
        typer.Option(
            "--slice-column",
            metavar="NAME",
            help="Column, such as channel; the accuracy is shown for each of its values. May be repeated.",
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", metavar="FILE", help="JSON file to write, with all results.")
    ] = None,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate an artifact on labelled texts: accuracy or metrics, per label and slice, confusions, calibration."""
    from ...export.commands.streams import quiet_panics
    from ...export.runtime.classifier import TextClassifier
    from ...training import tasks
    from ...training.data.label_kinds import LabelFormat
    from ...training.data.rows import checked
    from ...training.data.sources.base import DEFAULT_TEXT_COLUMN
    from ...training.data.sources.columns import Columns
    from ...training.data.sources.table import read_table
    from ..store.artifact_folder import find_artifact

    if output is not None:
        _check_output(output)
    folder = find_artifact(directory, storage)
    notes: list[str] = []
    slices = tuple(dict.fromkeys(slice_columns or ()))
    with quiet_panics():
        classifier = TextClassifier.load(folder)
    task = tasks.get(classifier.task)
    default_columns = task.columns
    named = list(dict.fromkeys(label_column or [default_columns.get("label_column", "label")]))
    if not task.has_named_labels and not task.of_tokens:
        named = _columns_of_numbers(named, classifier.labels)
    several = tuple(named) if len(named) > 1 else ()
    label_format = LabelFormat(named[0], several, label_separator)
    columns = Columns(
        text_column or default_columns.get("text_column", DEFAULT_TEXT_COLUMN),
        None if several else named[0],
        section=None,
        slices=slices,
        labels=several,
        pair=pair_column_of(classifier, text_pair_column or default_columns.get("text_pair_column")),
    )
    if task.has_classes and (several or label_separator is not None):
        option = "--label-column" if several else "--label-separator"
        given = ", ".join(several) or label_separator
        raise InputError(
            f"{option}: {given!r:.100} given, but the artifact predicts one label for each text; name one column, and "
            "no separator"
        )
    kind = task.label_kind
    read, remedy = kind.reader(label_format), kind.remedy(label_format)
    raw = kind.prepared(read_table("given", data, columns, parameter="DATA"))
    split = checked(raw, notes, read, remedy)
    for note in notes:
        typer.echo(f"warning: {note}", err=True)
    with quiet_panics():
        measured = _evaluator_of(task)(classifier, split, data)
    report = {"artifact": directory, "data": data, **measured}
    if output is not None:
        _write(output, report)
    if as_json:
        echo_json(report)
    else:
        _print(report)


def _columns_of_numbers(named: list[str], labels: Sequence[str]) -> list[str]:
    """Return the columns of the numbers that an artifact predicts, in its order; a single one may have any name.

    Raises:
        InputError: The names of several are not those of the artifact.
    """
    if len(named) == len(labels) == 1:
        return named
    if set(named) != set(labels):
        given = ", ".join(map(shown, named))
        raise InputError(
            f"--label-column: {given!s:.100} given, but the artifact predicts {', '.join(map(shown, labels))!s:.100}; "
            "name the column of each of them by that name"
        )
    return list(labels)


def _evaluator_of(task: Task) -> Callable[[TextClassifier, Split, str], dict[str, Any]]:
    """Return the function that evaluates a classifier of a task."""
    if task.has_classes:
        return _evaluate_classes
    if task.of_windows:
        return _evaluate_answers
    return _evaluate_spans if task.of_tokens else _evaluate_outputs


def _evaluate_answers(classifier: TextClassifier, split: Split, data: str) -> dict[str, Any]:
    """Evaluate a model that answers questions."""
    from ...export.benchmark.accuracy.evaluation import evaluate_answers
    from ...export.selection.slices import measure_slices
    from ...training import tasks

    answers = classifier(split.texts, batch_size=1)
    measured = evaluate_answers(answers, split.texts, split.labels, tasks.get(classifier.task))
    right = measured.pop("right")
    return {**measured, "slices": measure_slices(split.slices, right)}


def _evaluate_classes(classifier: TextClassifier, split: Split, data: str) -> dict[str, Any]:
    """Evaluate a classifier with one label for each text."""
    from ...export.benchmark.accuracy.evaluation import evaluate as evaluate_answers
    from ...export.selection.slices import measure_slices

    answers = classifier(split.texts)
    outside = [] if classifier.threshold is None else [classifier.threshold.label]
    known = list(dict.fromkeys([*classifier.labels, *outside]))
    if not set(known) & set(split.labels):
        raise InputError(
            f"DATA: {shown(data, 200)} has the labels {', '.join(sorted(set(split.labels)))!s:.100}, none of which "
            f"the artifact predicts ({', '.join(known)!s:.100}); give the data of this artifact's task"
        )
    right = [answer["label"] == label for answer, label in zip(answers, split.labels, strict=True)]
    measured = evaluate_answers(answers, split.labels, known)
    return {**measured, "slices": measure_slices(split.slices, right)}


def _evaluate_spans(classifier: TextClassifier, split: Split, data: str) -> dict[str, Any]:
    """Evaluate a model that finds the entities of texts."""
    from ...export.benchmark.accuracy.evaluation import evaluate_spans
    from ...export.selection.slices import measure_slices
    from ...training import tasks

    task, used = tasks.get(classifier.task), {each.type for label in split.labels for each in label}
    known = task.counted_names(classifier.labels)
    if not used & set(known):
        raise InputError(
            f"DATA: {shown(data, 200)} has entities of the types {', '.join(sorted(used)) or 'none'!s:.100}, none of "
            f"which the artifact predicts ({', '.join(known)!s:.100}); give the data of this artifact's task"
        )
    measured = evaluate_spans(classifier(split.texts, batch_size=1), split.texts, split.labels, known, task)
    right = measured.pop("right")
    return {**measured, "slices": measure_slices(split.slices, right)}


def _evaluate_outputs(classifier: TextClassifier, split: Split, data: str) -> dict[str, Any]:
    """Evaluate a model with several labels for each text, or with numbers."""
    from ...export.benchmark.accuracy.evaluation import evaluate_outputs
    from ...export.selection.slices import measure_slices
    from ...training import tasks

    task, labels = tasks.get(classifier.task), classifier.labels
    if task.has_label_sets:
        used = {name for names in split.labels for name in names}
        if not used & set(labels):
            raise InputError(
                f"DATA: {shown(data, 200)} has the labels {', '.join(sorted(used)) or 'none'!s:.100}, none of which "
                f"the artifact predicts ({', '.join(labels)!s:.100}); give the data of this artifact's task"
            )
    cuts = classifier.threshold.cuts(classifier.temperature) if classifier.threshold is not None else 0.0
    measured = evaluate_outputs(
        classifier.logits(split.texts, batch_size=1), split.labels, labels, task, cuts
    )
    right = measured.pop("right")
    return {**measured, "slices": [] if right is None else measure_slices(split.slices, right)}


@app.command()
def label(
    texts: Annotated[
        str,
        typer.Argument(
            metavar="TEXTS", help="Texts, in any form that data.train takes, or lines of a .txt file."
        ),
    ],
    teacher: Annotated[
        str,
        typer.Option(
            "--teacher", metavar="MODEL", help="A classifier: directory, hub id, or directory of an artifact."
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out", metavar="FILE", help="File to write: .parquet, .jsonl or .csv, for teacher.logits."
        ),
    ],
    text_column: Annotated[
        str, typer.Option("--text-column", metavar="NAME", help="Column with the text.")
    ] = "text",
    text_pair_column: Annotated[
        str | None,
        typer.Option(
            "--text-pair-column", metavar="NAME", help="Column with the second text, for pairs of texts."
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length",
            min=2,
            max=2**20,
            help="Tokens to which texts are truncated; default: as many as the model takes, at most 512.",
        ),
    ] = None,
) -> None:
    """Write the logits that a classifier gives for texts, in a file that a job's teacher.logits can name."""
    from ...export.commands.streams import quiet_panics
    from ...training.teacher.write_logits import check_format, write_logits
    from ..remote.label_texts import LabellingModel

    path = Path(out)
    check_format(path, "--out")
    with quiet_panics():
        model = LabellingModel.load(teacher, max_length)
    pair = model.pair_column(text_pair_column)
    given = list(dict.fromkeys(read_given_texts(Path(texts), text_column, pair, "TEXTS")))
    with quiet_panics():
        logits = model.logits(given, lambda progress: typer.echo(f"label: {progress.message}", err=True))
    try:
        write_logits(path, given, model.labels, logits)
    except OSError as error:
        raise InputError(
            f"--out: {shown(out, 200)} cannot be written ({error.strerror}); choose another"
        ) from None
    typer.echo(
        f"{out}: {len(given):,} texts with logits of {len(model.labels):,} labels; use it: teacher.logits: {out}"
    )


def _print_table(console: Console, heads: list[str], rows: list[list[str]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _check_output(output: str) -> None:
    path = Path(output)
    try:
        usable = path.suffix == ".json" and path.parent.is_dir()
    except (OSError, ValueError):
        usable = False
    if not usable:
        raise InputError(f"--output: {shown(output, 200)} given; specify a .json file in an existing folder")


def _write(output: str, report: dict[str, Any]) -> None:
    from ...storage.folders import write_file

    try:
        write_file(Path(output), json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    except (OSError, ValueError) as error:
        raise InputError(
            f"--output: {shown(output, 200)} cannot be written ({error!s:.100}); choose another"
        ) from None


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    figures = ("precision", "recall", "f1")
    if report["labels"]:
        _print_table(
            console,
            ["label", *figures, "texts"],
            [
                [each["label"], *(_figure(each[name]) for name in figures), str(each["num_texts"])]
                for each in report["labels"]
            ],
        )
    if report["slices"]:
        _print_table(
            console,
            ["slice", "accuracy", "texts"],
            [
                [f"{each['column']}: {each['value']}", _figure(each["accuracy"]), str(each["num_texts"])]
                for each in report["slices"]
            ],
        )
    if "metrics" in report:
        _print_metrics(console, report)
    else:
        _print_accuracy(console, report)
    if report["unknown"]:
        console.print(f"the artifact never predicts {', '.join(report['unknown'])}", soft_wrap=True)


def _print_metrics(console: Console, report: dict[str, Any]) -> None:
    from ...training.tasks import title_of

    values = ", ".join(f"{title_of(name)} {_figure(value)}" for name, value in report["metrics"].items())
    console.print(f"{values} on {report['num_texts']:,} texts", soft_wrap=True)


def _print_accuracy(console: Console, report: dict[str, Any]) -> None:
    from ...export.benchmark.accuracy.evaluation import most_confused

    confusion = report["confusion"]
    for count, true, given in most_confused(confusion["labels"], confusion["counts"], _MOST_CONFUSIONS):
        console.print(f"{count} of {true!r} predicted as {given!r}", soft_wrap=True)
    low, high = report["interval"]
    console.print(
        f"accuracy {report['accuracy']:.4f} (95 % from {low:.4f} to {high:.4f}) on {report['num_texts']:,} texts; "
        f"expected calibration error {report['calibration_error']:.4f}",
        soft_wrap=True,
    )
