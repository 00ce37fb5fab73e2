"""The report: ``report.json``, a Markdown table, a table for the terminal, and ratios between rows."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .gate import STUDENT, TEACHER
from .rows import RowMeasurement

if TYPE_CHECKING:
    from rich.table import Table

REPORT_FILE = "report.json"
MARKDOWN_FILE = "report.md"
PICTURE_FILE = "accuracy-latency.png"
SCOPE_PICTURE_FILE = "confidence.png"
REFERENCE = "reference-bert-base"

_COMPRESSED, _FLOOR = "compressed MB", "floor ms"
_HEADERS = (
    "variant",
    "accuracy",
    "in-scope",
    "oos recall",
    "with threshold",
    "validation",
    "size MB",
    _COMPRESSED,
    "p50 ms",
    _FLOOR,
    "mean ± std ms",
    "p99 ms",
    "sample p50 ms",
    "texts/s",
    "memory MB",
    "max diff",
    "changed",
    "gate",
)
# Header in the terminal by header of the whole table: those that fit 80 columns.
_TERMINAL_HEADERS = {
    "variant": "variant",
    "accuracy": "accuracy",
    "in-scope": "in-scope",
    "oos recall": "oos",
    "with threshold": "with thr.",
    "size MB": "size MB",
    "p50 ms": "p50 ms",
    "gate": "gate",
}
_NONE = "–"  # noqa: RUF001


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
    from .pictures import draw_accuracy_latency
    from .scope_picture import draw_scope

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
    _write_text(paths["markdown"], markdown_report(report))
    _write_text(paths["json"], json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return paths


def markdown_table(variants: Sequence[dict[str, Any]], chosen: str | None) -> str:
    """The table of ``report["variants"]`` in Markdown, the chosen row bold."""
    shown = {_COMPRESSED: _are_compressed(variants), _FLOOR: _have_floors(variants)}
    left_out = {_HEADERS.index(name) for name, is_shown in shown.items() if not is_shown}
    headers = [name for i, name in enumerate(_HEADERS) if i not in left_out]
    lines = ["| " + " | ".join(headers) + " |", "| --- |" + " ---: |" * (len(headers) - 1)]
    for every, is_chosen in _cells(variants, chosen):
        cells = [cell for i, cell in enumerate(every) if i not in left_out]
        name = f"**{cells[0]}** (chosen)" if is_chosen else cells[0]
        lines.append("| " + " | ".join([name, *cells[1:]]) + " |")
    return "\n".join(lines) + "\n"


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
        best = ", ".join(f"{name} {_number(value)}" for name, value in values.items())
        parts.append(f"Best trial: {best}.\n")
    if report.get("trials"):
        parts.append(_trials_table(report["trials"]))
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


def choice_table(variants: Sequence[dict[str, Any]], chosen: str | None) -> str:
    """In Markdown: each variant's validation accuracy against the student's, and why it was chosen or not.

    And against the teacher's, with its limits, where one was compared with it.
    """
    has_teacher = any(row.get("against_teacher") for row in variants)
    headers = ["variant", "against student", "limits", "only it right", "only student right", "p"]
    headers += ["against teacher (limits)", "why"] if has_teacher else ["why"]
    lines = ["| " + " | ".join(headers) + " |", "| --- |" + " ---: |" * (len(headers) - 2) + " --- |"]
    for row in variants:
        found, teacher, verdict = (row.get(key) for key in ("against_student", "against_teacher", "verdict"))
        if found is None and teacher is None and verdict is None:
            continue
        cells = [_NONE] * 5
        if found is not None:
            cells = [
                f"{found['difference']:+.4f}",
                _limits(found),
                *(str(found[name]) for name in ("only_first", "only_second")),
                f"{found['p_value']:.2g}",
            ]
        if has_teacher:
            cells.append(f"{teacher['difference']:+.4f} ({_limits(teacher)})" if teacher else _NONE)
        name = f"**{row['name']}**" if row["name"] == chosen else row["name"]
        lines.append("| " + " | ".join([name, *cells, verdict or _NONE]) + " |")
    return "\n".join(lines) + "\n"


def _limits(found: dict[str, Any]) -> str:
    return f"{found['low']:+.4f} … {found['high']:+.4f}"


def verdicts(variants: Sequence[dict[str, Any]]) -> list[str]:
    """Why each variant was chosen or not, one line each."""
    return [f"{row['name']}: {row['verdict']}" for row in variants if row.get("verdict")]


def scope_table(variants: Sequence[dict[str, Any]], chosen: str | None) -> str:
    """In Markdown: each row's confidence, and what its out-of-scope threshold does on the test split."""
    rows = [row for row in variants if row.get("curves")]
    headers = ["variant", "calibration error"]
    if any(row.get("with_threshold") for row in rows):
        headers += ["threshold", "accuracy without", "with", "in-scope with", "oos recall with"]
        headers += ["in-scope refused", "AUROC"]
    lines = ["| " + " | ".join(headers) + " |", "| --- |" + " ---: |" * (len(headers) - 1)]
    for row in rows:
        found = row.get("with_threshold") or {}
        cells = [
            f"**{row['name']}**" if row["name"] == chosen else row["name"],
            _fixed(row["calibration_error"], 4),
        ]
        if found:
            cells += [f"{found['score']} {found['value']:.3f}", _fixed(row["accuracy"], 4)]
            names = ("accuracy", "in_scope_accuracy", "oos_recall", "in_scope_refused", "auroc")
            cells += [_fixed(found[name], 4) for name in names]
        lines.append("| " + " | ".join([*cells, *[_NONE] * (len(headers) - len(cells))]) + " |")
    return "\n".join(lines) + "\n"


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


def _trials_table(trials: Sequence[dict[str, Any]]) -> str:
    """Every trial's arguments and its best epoch; a failed one with its reason."""
    names = list(dict.fromkeys(name for trial in trials for name in trial["parameters"]))
    headers = ["trial", *names, "validation accuracy", "best epoch", "seconds", "state"]
    lines = ["| " + " | ".join(headers) + " |", "| --- |" + " ---: |" * (len(headers) - 1)]
    for trial in trials:
        values = [_number(trial["parameters"].get(name, _NONE)) for name in names]
        accuracy = _fixed((trial.get("metrics") or {}).get("validation_accuracy"), 4)
        state = (trial["reason"] or trial["state"]).replace("|", "\\|").replace("\n", " ")
        epoch = _NONE if trial["best_epoch"] is None else str(trial["best_epoch"])
        cells = [trial["trial_id"], *values, accuracy, epoch, f"{trial['seconds']:.0f}", state]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def terminal_table(variants: Sequence[dict[str, Any]], chosen: str | None) -> Table:
    """The same table for ``rich``, with the columns that fit a terminal."""
    from rich import box
    from rich.table import Table

    kept = [_HEADERS.index(name) for name in _TERMINAL_HEADERS]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    for i in kept:
        table.add_column(_TERMINAL_HEADERS[_HEADERS[i]], justify="left" if i == 0 else "right", no_wrap=True)
    for cells, is_chosen in _cells(variants, chosen):
        marked = [f"{cells[0]} *" if is_chosen else cells[0], *cells[1:]]
        table.add_row(*(marked[i] for i in kept), style="bold" if is_chosen else None)
    return table


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
        if _have_floors(variants):
            texts.append(
                "Floor: what this machine's thread needs at least for that text: weights and looked-up rows over "
                "measured bandwidth, or products over measured rates, whichever takes longer. Tokenizing and all other "
                "operators are not in it."
            )
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
    if _are_compressed(variants):
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


def _are_compressed(variants: Sequence[dict[str, Any]]) -> bool:
    return any(row.get("compressed_size_mb") is not None for row in variants)


def _have_floors(variants: Sequence[dict[str, Any]]) -> bool:
    return any(row.get("floor_ms") is not None for row in variants)


def _cells(variants: Sequence[dict[str, Any]], chosen: str | None) -> Iterator[tuple[list[str], bool]]:
    for row in variants:
        latency = row["latency_ms"]
        throughput = list((row.get("throughput") or {}).values())
        gate = {True: "passed", False: "failed", None: _NONE}[row["passed_gate"]]
        difference, changed = row.get("max_abs_diff"), row.get("predictions_changed")
        yield (
            [
                row["name"],
                *(_fixed(row.get(key), 4) for key in ("accuracy", "in_scope_accuracy", "oos_recall")),
                _fixed((row.get("with_threshold") or {}).get("accuracy"), 4),
                _fixed(row.get("validation_accuracy"), 4),
                _fixed(row["size_mb"], 2),
                _fixed(row.get("compressed_size_mb"), 2),
                _fixed(latency["p50"], 2),
                _fixed((row.get("floor_ms") or {}).get("floor"), 2),
                f"{latency['mean']:.2f} ± {latency['std']:.2f}",
                _fixed(latency["p99"], 2),
                _fixed((row.get("sample_latency_ms") or {}).get("p50"), 2),
                _fixed(throughput[-1] if throughput else None, 0),
                _fixed(row.get("peak_memory_mb"), 0),
                _NONE if difference is None else f"{difference:.1e}",
                _NONE if changed is None else f"{100 * changed:.2f} %",
                gate,
            ],
            row["name"] == chosen,
        )


def _fixed(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _write_text(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary = Path(name)
    temporary.chmod(0o644)
    temporary.replace(path)
