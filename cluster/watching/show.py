"""Output of `show` and `runs`, as JSON values and on the terminal."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ...errors import PermanentStorageError
from ...training.tasks import title_of
from ..store.artifact_folder import predict_command
from ..store.garbage import run_sizes
from ..store.runs import READERS, STAGES, Run, Storage, command, own_name
from .console import bytes_text, tables
from .status import StatusReader
from .status_view import COLOURS, age, print_status


def summary(run: Run) -> dict[str, Any]:
    """Return the object that ``show --json`` prints; parts that do not exist yet are null or empty."""
    search = run.stage_record("search").get("result") or {}
    choice = run.stage_record("gate").get("result") or {}
    record = run.read("run.json") or {}
    return {
        "run_id": run.id,
        "state": run.state,
        "error": record.get("error"),
        "best": search.get("best"),
        "variants": choice.get("variants", []),
        "chosen": choice.get("chosen"),
        "against_teacher": choice.get("against_teacher"),
        "against_baselines": choice.get("against_baselines") or [],
        "ratios": choice.get("ratios") or {},
        "warning": choice.get("warning"),
        "teachers": (run.stage_record("logits").get("result") or {}).get("ensemble"),
        "artifact": _location(run, run.artifact),
        "report": _location(run, run.report),
        "trials": search.get("trials", []),
        "front": search.get("front", []),
        "choice": search.get("choice", ""),
        "ended_by": search.get("ended_by"),
        "stages": [
            {"name": stage, "state": each.get("state", "waiting"), "seconds": each.get("seconds")}
            for stage, each in ((stage, run.stage_record(stage)) for stage in STAGES)
        ],
    }


def print_summary(run: Run) -> None:
    """Print a run on the terminal: its table of variants if it has one, otherwise its stages."""
    console = tables()
    found = summary(run)
    if not found["variants"]:
        print_status(console, StatusReader(run).read())
        _print_failed_trials(console, found["trials"])
        return
    console.print(f"[bold]{run.id}[/bold]  {found['state']}", soft_wrap=True)
    if found["error"]:
        console.print(f"[red]{escape(found['error'])}[/red]", soft_wrap=True)
    from ...export.report.length_tables import length_lines
    from ...export.report.tables import (
        disturbed,
        reused,
        terminal_table,
        time_of_text,
        verdicts,
        whole_sizes,
    )
    from ...export.report.teacher_tables import teacher_lines

    _print_comparisons(console, found)
    console.print(terminal_table(found["variants"], found["chosen"]))
    rows = found["variants"]
    chosen = found["chosen"]
    notes = [*whole_sizes(rows), *time_of_text(rows, chosen), *length_lines(rows, chosen)]
    for line in [*notes, *disturbed(rows), *reused(rows), *verdicts(rows)]:
        console.print(line, soft_wrap=True, markup=False)
    if found["teachers"]:
        for line in teacher_lines(found["teachers"]):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
    if found["best"]:
        console.print(_best_line(found["best"]), soft_wrap=True)
        _print_search(console, run, found)
    _print_failed_trials(console, found["trials"])
    if found["artifact"]:
        _print_next_steps(console, run, found)


def run_rows(storage: Storage) -> list[dict[str, Any]]:
    """Return one row per run, newest first; damaged runs have the state ``damaged`` and an ``error``."""
    sizes = run_sizes(storage)
    with ThreadPoolExecutor(READERS) as pool:
        rows = [row for row in pool.map(_row, storage.candidates()) if row is not None]
    rows = [{**row, "size_bytes": sizes.get(row["run_id"], 0)} for row in rows]
    return sorted(rows, key=lambda row: (row["created"] or "", row["run_id"]), reverse=True)


def print_runs(rows: list[dict[str, Any]], storage: str) -> None:
    """Print the rows as a table; ``storage`` is the location of the runs, for the message if there are none."""
    console = tables()
    if not rows:
        console.print(
            f"no runs in {storage}; start one with: distiltune run, or look elsewhere with --storage DIR|URL",
            soft_wrap=True,
            markup=False,
        )
        return
    table = Table(box=None, pad_edge=False)
    for name in ("run", "state", "age", "trials", "validation", "size"):
        # A truncated or wrapped id can be neither copied nor searched for.
        table.add_column(name, no_wrap=True)
    table.add_column("chosen", overflow="ellipsis")
    for row in rows:
        value, metric = row["best_value"], row["metric"]
        shown = "" if value is None else f"{value:.4f}"
        shown += f" {title_of(metric)}" if value is not None and metric not in (None, "accuracy") else ""
        trials = "" if row["trials_done"] is None else f"{row['trials_done']}/{row['num_trials']}"
        state = Text(row["state"], style=COLOURS.get(row["state"], ""))
        size = bytes_text(row["size_bytes"])
        begun = age(row["created"]) if row["created"] else ""
        table.add_row(row["run_id"], state, begun, trials, shown, size, row["chosen"] or "")
    console.print(table)
    for row in rows:
        if row["error"]:
            console.print(f"{row['run_id']}: {row['error']}", style="red", soft_wrap=True, markup=False)


def _row(run: Run) -> dict[str, Any] | None:
    created = None
    try:
        created = run.began
        return _row_of(run, created) if created else None
    except PermanentStorageError as error:
        nothing = dict.fromkeys(("num_trials", "trials_done", "metric", "best_value", "chosen"))
        return {"run_id": run.id, "state": "damaged", "created": created, **nothing, "error": str(error)}


def _row_of(run: Run, created: str) -> dict[str, Any]:
    searched = run.stage_record("search")
    progress = (run.read(run.progress("search")) or {}) if searched else {}
    found = searched.get("result") or {}
    gate = run.stage_record("gate") if found else {}
    return {
        "run_id": run.id,
        "state": run.state,
        "created": created,
        "num_trials": progress.get("num_trials"),
        "trials_done": progress.get("done"),
        "metric": found["best"]["metric"] if found else None,
        "best_value": found["best"]["value"] if found else progress.get("best_value"),
        "chosen": (gate.get("result") or {}).get("chosen"),
        "error": None,
    }


def _location(run: Run, key: str) -> str | None:
    return run.store.location(key) if run.store.has_folder(key) else None


def _best_line(best: dict[str, Any]) -> str:
    return (
        f"best trial {best['trial_id']}: alpha {best['alpha']:.3g}, temperature {best['temperature']:g}, "
        f"{best['num_train_epochs']} epochs -> validation {title_of(best['metric'])} {best['value']:.4f} "
        f"(epoch {best['epoch']})"
    )


def _print_search(console: Console, run: Run, found: dict[str, Any]) -> None:
    """Print how the search ended, and the trials that could be selected."""
    pruned = sum(trial["state"] == "pruned" for trial in found["trials"])
    if found["ended_by"]:
        console.print(f"the search ended early: {found['ended_by']}", soft_wrap=True, markup=False)
    if pruned:
        console.print(f"{pruned} of {len(found['trials'])} trials were stopped early")
    if found["choice"]:
        console.print(f"chosen: {found['choice']}", soft_wrap=True, markup=False)
    if len(found["front"]) > 1:
        names = ", ".join(found["front"])
        console.print(
            f"Pareto front: {names}; select another one: {command('choose', run, 'TRIAL')}", soft_wrap=True
        )


def _print_comparisons(console: Console, found: dict[str, Any]) -> None:
    """Print the selected variant's comparison with the teacher on the test split, and its ratios to other models."""
    from ...export.benchmark.measure_models import Measurement
    from ...export.markdown import times_faster
    from ...export.report.report import TEACHER, ratios
    from ...export.report.tables import sentence

    rows = [Measurement.from_json(row) for row in found["variants"]]
    compared = found["against_teacher"]
    times_of = ratios(rows, found["chosen"], found["ratios"]).get(found["chosen"], {})
    if compared:
        times = times_of.get(TEACHER)  # a file of logits has no latency
        gain = "" if times is None else f", {times_faster(times)} faster, {compared['smaller']:.1f}x smaller"
        console.print(
            f"{found['chosen']} against its teacher on {compared['num_texts']:,} test texts: {compared['title']} "
            f"{compared['difference']:+.4f} ({compared['low']:+.4f} … {compared['high']:+.4f} with 95 % confidence)"
            f"{gain}",
            soft_wrap=True,
            highlight=False,
            style="bold",
            markup=False,
        )
    if found["warning"]:
        console.print(f"[yellow]warning: {escape(found['warning'])}[/yellow]", soft_wrap=True)
    for base, times in times_of.items():
        if not (compared and base == TEACHER):
            smaller = f"{times['smaller']:.1f}x smaller"
            console.print(f"{times_faster(times)} faster and {smaller} than {base}", highlight=False)
    for baseline in found["against_baselines"]:
        console.print(sentence(baseline), soft_wrap=True, highlight=False, markup=False)


def _print_failed_trials(console: Console, trials: list[dict[str, Any]]) -> None:
    for trial in trials:
        if trial["state"] == "failed":
            reason = escape(trial["reason"])
            console.print(f"[red]trial {trial['trial_id']} failed: {reason}[/red]", soft_wrap=True)


def _print_next_steps(console: Console, run: Run, found: dict[str, Any]) -> None:
    here = run.store.directory is not None
    artifact = str(_short(Path(found["artifact"]))) if here else found["artifact"]
    steps = {
        "artifact": artifact,
        "report": f"{_short(Path(found['report']))}/report.md" if here else command("report", run),
        "predict": predict_command(own_name(), Path(found["artifact"]), artifact),
        "trials": command("tensorboard", run),
        "pull": command("pull", run, "--to DIR"),
    }
    if not here:
        del steps["predict"]
    for name, step in steps.items():
        console.print(f"{name:<10}  {step}", soft_wrap=True, markup=False)


def _short(path: Path) -> Path:
    """Return a path relative to the working directory if it is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
