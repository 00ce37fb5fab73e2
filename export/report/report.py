"""The report of a run: ``report.json``, ``report.md``, and ratios between rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...storage.folders import write_file
from ..benchmark.rows import RowMeasurement
from ..selection.gate import STUDENT, TEACHER
from .tables import (
    are_compressed,
    choice_table,
    have_floors,
    markdown_table,
    number,
    scope_table,
    trials_table,
)

REPORT_FILE = "report.json"
MARKDOWN_FILE = "report.md"
PICTURE_FILE = "accuracy-latency.png"
SCOPE_PICTURE_FILE = "confidence.png"
REFERENCE = "reference-bert-base"


def build_report(
    *,
    run_id: str,
    state: str,
    best: dict[str, Any] | None,
    rows: Sequence[RowMeasurement],
    chosen: str | None,
    artifact: str | None,
    machine: dict[str, Any],
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Put the report together.

    Args:
        run_id: of the run.
        state: of the run, as ``finished``.
        best: the best trial: alpha, temperature, num_train_epochs, validation_accuracy, trial_id.
        rows: measured and gated rows, in the order of the table.
        chosen: name of the chosen row.
        artifact: path of the sealed artifact.
        machine: what ``describe_machine`` gave.
        extra: further keys, as the stages' times.

    Returns:
        The object of ``report.json``: run_id, state, best, variants, chosen, artifact; then ratios (of every row
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
        "ratios": ratios(rows),
        "machine": machine,
    }
    return report | {key: value for key, value in (extra or {}).items() if key not in report}


def ratios(rows: Sequence[RowMeasurement]) -> dict[str, dict[str, dict[str, float]]]:
    """Row → baseline row → ``{"faster": times, "smaller": times}``, by p50 of the query and by size."""
    by_name = {row.name: row for row in rows}
    baselines = [by_name[name] for name in (REFERENCE, TEACHER, STUDENT) if name in by_name]
    return {
        row.name: {
            base.name: {
                "faster": base.latency_ms["p50"] / row.latency_ms["p50"],
                "smaller": base.size_mb / row.size_mb,
            }
            for base in baselines
            if base.name != row.name
        }
        for row in rows
    }


def write_report(report: dict[str, Any], out_dir: str | Path) -> dict[str, Path]:
    """Write ``report.json``, ``report.md`` and the pictures, each whole or not at all.

    Returns:
        ``{"json": path, "markdown": path, "picture": path}``, and ``confidence`` where that was measured.
    """
    from .plots.confidence import draw_scope
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
    write_file(paths["markdown"], markdown_report(report))
    write_file(paths["json"], json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return paths


def markdown_report(report: dict[str, Any]) -> str:
    """The whole report in Markdown: table, ratios of the chosen row, picture, best trial, machine."""
    chosen = report["chosen"]
    parts = [f"# Run {report['run_id']}\n", markdown_table(report["variants"], chosen)]
    parts.append("\n".join(f"- {note}" for note in notes(report)) + "\n")
    if any(row.get("verdict") for row in report["variants"]):
        parts.append(choice_table(report["variants"], chosen))
    parts.append(f"![accuracy against latency]({PICTURE_FILE})\n")
    parts += [_picture(name) for name in (report.get("graphs") or {}).get("pictures", [])]
    if _compared(report):
        parts += [scope_table(report["variants"], chosen), f"![confidence]({SCOPE_PICTURE_FILE})\n"]
    if report.get("best"):
        values = {name: value for name, value in report["best"].items() if not isinstance(value, dict)}
        best = ", ".join(f"{name} {number(value)}" for name, value in values.items())
        parts.append(f"Best trial: {best}.\n")
    if report.get("trials"):
        parts.append(trials_table(report["trials"]))
    parts += _search_parts(report.get("search") or {})
    if report.get("stages"):
        times = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report["stages"].items())
        parts.append(f"Time of each stage: {times}.\n")
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items())
    parts.append(
        f"Machine: {machine.get('cpu')}, {machine.get('num_usable_cores')} usable cores, "
        f"{' '.join(machine.get('instruction_sets', []))}; {machine.get('os')}; "
        f"Python {machine.get('python')}; {versions}.\n"
    )
    return "\n".join(parts)


def _compared(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the picture of confidence: the chosen one, the student, the teacher."""
    by_name = {row["name"]: row for row in report["variants"] if row.get("curves")}
    wanted = dict.fromkeys([report["chosen"] or STUDENT, STUDENT, TEACHER])
    return [by_name[name] for name in wanted if name in by_name]


def _search_parts(search: dict[str, Any]) -> list[str]:
    """What was chosen among the trials and why, and the pictures of the search."""
    texts = {
        "ended_by": "The search ended before all of its trials were done: {}.",
        "choice": "Chosen: {}.",
    }
    parts = [text.format(search[name]) + "\n" for name, text in texts.items() if search.get(name)]
    if len(search.get("front") or []) > 1:
        parts.append(f"Pareto front: {', '.join(search['front'])}.\n")
    parts += [_picture(name) for name in search.get("pictures", [])]
    left_out = search.get("left_out") or {}
    parts += [f"No {Path(name).stem.replace('-', ' ')}: {reason}.\n" for name, reason in left_out.items()]
    return parts


def _picture(name: str) -> str:
    return f"![{Path(name).stem.replace('-', ' ')}]({name})\n"


def notes(report: dict[str, Any]) -> list[str]:
    """What a reader of the table must know, one sentence each."""
    variants = report["variants"]
    texts = [f"Chosen: {report['chosen'] or 'none'}."]
    for base, times in report["ratios"].get(report["chosen"] or "", {}).items():
        texts.append(
            f"Against {base}: {times['faster']:.1f}x faster (p50 of one text, whole pipeline), "
            f"{times['smaller']:.1f}x smaller."
        )
    if variants:
        first = variants[0]
        texts.append(
            f"Latency: one text, text in to label out, {first['num_threads']} thread(s), batch 1, no padding; "
            f"query {first['query']!r}. Texts/s at the largest batch measured. Size: weights or graph, "
            "bytes / 2^20."
        )
        if have_floors(variants):
            texts.append(
                "Floor: what this machine's thread needs at least for that text: weights and looked-up rows over "
                "measured bandwidth, or products over measured rates, whichever takes longer. Tokenizing and all other "
                "operators are not in it."
            )
        for row in variants:
            if row["num_threads"] != first["num_threads"]:
                texts.append(f"{row['name']}: {row['num_threads']} threads, which were the fastest.")
        texts.append("Accuracies on the test split; every choice was made on the validation split.")
    if any(row.get("with_threshold") for row in variants):
        texts.append(
            "Columns accuracy, in-scope, oos recall and validation: the largest logit decides, no threshold. With "
            "threshold: texts whose score is below the row's own threshold are told to be out of scope, as the "
            "artifact does."
        )
    compared = [found for row in variants if (found := row.get("against_student"))]
    if compared:
        texts.append(
            f"Changed: share of the {compared[0]['num_texts']:,} validation texts whose label is not the student's. "
            "Against student or teacher: difference of validation accuracy on the same texts; each limit holds with "
            f"{100 * compared[0]['confidence']:g} % confidence (Tango's score limits for pairs); p: McNemar's exact "
            "test, two-sided."
        )
    if are_compressed(variants):
        texts.append(
            "The student was pruned. Compressed: the same file by zlib at level 9. Zeros that lie anywhere in a "
            "matrix make it smaller to store and send; they do not lower latency."
        )
    if any(row["name"] == REFERENCE for row in variants):
        texts.append(
            f"{REFERENCE}: bert-base-uncased's architecture with untrained weights; latency and size only."
        )
    for name, record in (report.get("graphs") or {}).get("variants", {}).items():
        if record["excluded"]:
            texts.append(
                f"{name}: in 32 bits, for they are the most sensitive: {', '.join(record['excluded'])} "
                f"(nodes {', '.join(record['excluded_nodes'])}); error of the logits on training texts "
                f"{record['logits_error'] * 100:.2g} % of their variance."
            )
    for row in variants:
        if row.get("fused") is not None:
            counts = ", ".join(f"{count} {kind}" for kind, count in row["fused"].items()) or "nothing"
            texts.append(f"{row['name']} fused: {counts}.")
    return texts
