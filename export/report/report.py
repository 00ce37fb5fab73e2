"""Build and write the report of a run: ``report.json``, ``report.md``, and ratios between rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...storage.folders import write_file
from ...training.tasks import TASKS, title_of
from ..benchmark import targets
from ..benchmark.contention import MOST_WAITING
from ..benchmark.measure_models import Measurement
from ..markdown import render, times_faster
from ..selection.gate import ACCURACY, STUDENT, TEACHER
from .breakdown_tables import labels_table, pairs_table, slice_losses_table, slices_table
from .data_tables import confused_table, duplicates_table, issues_table
from .gpu_tables import gpu_table, on_gpu, without_graphs
from .length_tables import by_length, length_table
from .tables import (
    choice_table,
    disturbed,
    has_any,
    losses_table,
    markdown_table,
    profile_table,
    reused,
    scope_table,
    sentence,
    trained,
    trials_table,
)
from .teacher_tables import gain_in_words, lacking_in_words, teachers_table

REPORT_FILE = "report.json"
MARKDOWN_FILE = "report.md"
PICTURE_FILE = "accuracy-latency.png"
SCOPE_PICTURE_FILE = "confidence.png"
CONFUSION_PICTURE_FILE = "confusion.png"
MOST_LABELS_OPEN = 30
"""Maximum number of labels in a table that is shown expanded; a longer one is collapsed."""
REFERENCE = "reference-bert-base"
_NO_SEARCH = {"ended_by": None, "choice": "", "front": [], "pictures": [], "left_out": {}}
_NO_DIAGNOSTICS = {"label_issues": {}, "near_duplicates": {}, "confused_labels": []}
_FILTERS = {
    "variants_table": markdown_table,
    "choice_table": choice_table,
    "profile_table": profile_table,
    "losses_table": losses_table,
    "labels_table": labels_table,
    "pairs_table": pairs_table,
    "slices_table": slices_table,
    "slice_losses_table": slice_losses_table,
    "issues_table": issues_table,
    "confused_table": confused_table,
    "duplicates_table": duplicates_table,
    "gpu_table": gpu_table,
    "by_length": by_length,
    "length_table": length_table,
    "teachers_table": teachers_table,
    "gain_in_words": gain_in_words,
    "lacking_in_words": lacking_in_words,
    "on_gpu": on_gpu,
    "without_graphs": without_graphs,
    "scope_table": scope_table,
    "trials_table": trials_table,
    "have": has_any,
    "disturbed": disturbed,
    "reused": reused,
    "sentence": lambda found: f"{sentence(found)[:1].upper()}{sentence(found)[1:]}",
    "trained": trained,
    "times_faster": times_faster,
    "title_of": lambda picture: Path(picture).stem.replace("-", " "),
    "quoted": repr,
    "metric_title": title_of,
}


def build_report(
    *,
    run_id: str,
    state: str,
    best: dict[str, Any] | None,
    rows: Sequence[Measurement],
    chosen: str | None,
    artifact: str | None,
    machine: dict[str, Any],
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Build the report of a run.

    Args:
        run_id: id of the run.
        state: state of the run, such as ``finished``.
        best: the best trial: alpha, temperature, num_train_epochs, metric and its value on the validation split,
            validation_accuracy, trial_id.
        rows: measured and gated rows, in the order of the table.
        chosen: name of the chosen row.
        artifact: path of the sealed artifact.
        machine: the result of ``describe_machine``.
        extra: further keys, such as the stages' times; ``interleaved``: name of a row → ``LatencyRatio`` of the
            chosen row to it, as JSON values.

    Returns:
        The content of ``report.json``: run_id, state, best, variants, chosen, artifact; then ratios (of every row
        to teacher, student and reference: how many times faster by p50 of the query, how many times smaller),
        machine, and ``extra``.
    """
    report = {
        "run_id": run_id,
        "state": state,
        "best": best,
        "variants": [row.to_json() for row in rows],
        "chosen": chosen,
        "artifact": artifact,
        "ratios": ratios(rows, chosen, (extra or {}).get("interleaved")),
        "machine": machine,
    }
    return report | {key: value for key, value in (extra or {}).items() if key not in report}


def ratios(
    rows: Sequence[Measurement], chosen: str | None = None, interleaved: Mapping[str, Any] | None = None
) -> dict[str, dict[str, dict[str, float]]]:
    """Compute row → baseline row → ``{"faster": times, "smaller": times}``, by p50 of the query and by size.

    Where the chosen row was timed in turns with a baseline, ``faster`` is the ratio of those timings, with ``low`` and
    ``high``, the limits of its 95 % interval. A row on a GPU is compared with PyTorch on the GPU, every other one with
    PyTorch on the CPU.
    """
    run = [row for row in rows if row.latency_ms is not None]
    baselines = [row for row in run if row.model_name in (REFERENCE, TEACHER, STUDENT)]
    baselines.sort(key=lambda row: (REFERENCE, TEACHER, STUDENT).index(row.model_name))
    found = {
        row.name: {
            base.name: {"faster": base.p50_ms / row.p50_ms, "smaller": base.megabytes / row.megabytes}
            for base in baselines
            if base.name != row.name and targets.get(base.kind).needs_gpu == targets.get(row.kind).needs_gpu
        }
        for row in run
    }
    for name, ratio in (interleaved or {}).items():
        if chosen is not None and name in found.get(chosen, {}):
            found[chosen][name] |= {key: ratio[key] for key in ("faster", "low", "high")}
    return found


def write_report(report: dict[str, Any], out_dir: str | Path) -> dict[str, Path]:
    """Write ``report.json``, ``report.md`` and the plots, each atomically.

    Returns:
        ``{"json": path, "markdown": path, "picture": path}``, and ``confidence`` and ``confusion`` where these were
        measured.
    """
    from .plots.confidence import draw_scope
    from .plots.confusion import draw_confusion
    from .plots.latency import draw_accuracy_latency

    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = {
        "json": out_dir / REPORT_FILE,
        "markdown": out_dir / MARKDOWN_FILE,
        "picture": out_dir / PICTURE_FILE,
    }
    draw_accuracy_latency(report["variants"], report["chosen"], paths["picture"])
    compared = _compared(report)
    if compared:
        paths["confidence"] = draw_scope(compared, out_dir / SCOPE_PICTURE_FILE)
    confusion = (report.get("breakdown") or {}).get("confusion") or {}
    if confusion.get("counts"):
        path = out_dir / CONFUSION_PICTURE_FILE
        paths["confusion"] = draw_confusion(confusion["labels"], confusion["counts"], path)
    write_file(paths["markdown"], markdown_report(report))
    write_file(paths["json"], json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return paths


def markdown_report(report: dict[str, Any]) -> str:
    """Return the text of ``report.md``: variants, the selection and its reasons, plots, trials and machine."""
    metric = report.get("metric") or ACCURACY.name
    variants, search = report["variants"], report.get("search") or {}
    values = {
        **{name: report[name] for name in ("run_id", "variants", "chosen", "machine")},
        **{name: report.get(name) or {} for name in ("trials", "stages", "against_teacher", "warning")},
        "lengths": _lengths(report),
        "few_labels": report.get("few_labels") or {},
        "teacher_file": report.get("teacher_file") or {},
        "teachers": report.get("teachers") or {},
        "task": (report.get("job") or {}).get("task"),
        "against_baselines": report.get("against_baselines") or [],
        "left_out": report.get("left_out") or {},
        "gpu_machine": report.get("gpu_machine") or {},
        "breakdown": report.get("breakdown") or {},
        "diagnostics": report.get("diagnostics") or _NO_DIAGNOSTICS,
        "best": _best_shown(report.get("best") or {}),
        "metric": metric,
        "ratios": report["ratios"].get(report["chosen"], {}),
        "interleaved": report.get("interleaved") or {},
        "graphs": {"variants": {}, "pictures": [], "skipped": {}, **(report.get("graphs") or {})},
        "search": _NO_SEARCH | {name: value for name, value in search.items() if value is not None},
        "selected": next((row for row in variants if row["name"] == report["chosen"]), None),
        "paired": next((row["against_student"] for row in variants if row.get("against_student")), None),
        "compared": _compared(report),
        "most_waiting": MOST_WAITING,
        "reference": REFERENCE,
        "teacher": TEACHER,
        "picture": PICTURE_FILE,
        "scope_picture": SCOPE_PICTURE_FILE,
        "confusion_picture": CONFUSION_PICTURE_FILE,
        "most_labels_open": MOST_LABELS_OPEN,
    }
    return render(__name__, "report.md.j2", values, _FILTERS)


def _best_shown(best: dict[str, Any]) -> dict[str, Any]:
    """Return the values of the best trial to show, its metric under the metric's name."""
    shown = {name: value for name, value in best.items() if not isinstance(value, dict)}
    metric, value = shown.pop("metric", None), shown.pop("value", None)
    if metric is None or f"validation_{metric}" in shown:
        return shown
    if shown.get("validation_accuracy", value) is None:
        shown.pop("validation_accuracy")
    names = list(shown)
    place = names.index("validation_accuracy" if "validation_accuracy" in names else "trial_id")
    items = list(shown.items())
    return dict([*items[:place], (f"validation_{metric}", value), *items[place:]])


def _compared(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the confidence plot: the chosen one, the student, the teacher."""
    by_name = {row["name"]: row for row in report["variants"] if row.get("calibration")}
    wanted = dict.fromkeys([report["chosen"] or STUDENT, STUDENT, TEACHER])
    return [by_name[name] for name in wanted if name in by_name]


def _lengths(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the lengths of the training texts, and whether long ones are read in windows; empty if not measured."""
    lengths, name = report.get("lengths") or {}, str((report.get("job") or {}).get("task"))
    return {**lengths, "of_windows": name in TASKS and TASKS[name].of_windows} if lengths else {}
