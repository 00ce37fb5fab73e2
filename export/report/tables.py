"""The tables of a report: in Markdown, and one for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

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


def markdown_table(variants: Sequence[dict[str, Any]], chosen: str | None) -> str:
    """The table of ``report["variants"]`` in Markdown, the chosen row bold."""
    shown = {_COMPRESSED: are_compressed(variants), _FLOOR: have_floors(variants)}
    left_out = {_HEADERS.index(name) for name, is_shown in shown.items() if not is_shown}
    headers = [name for i, name in enumerate(_HEADERS) if i not in left_out]
    lines = ["| " + " | ".join(headers) + " |", "| --- |" + " ---: |" * (len(headers) - 1)]
    for every, is_chosen in _cells(variants, chosen):
        cells = [cell for i, cell in enumerate(every) if i not in left_out]
        name = f"**{cells[0]}** (chosen)" if is_chosen else cells[0]
        lines.append("| " + " | ".join([name, *cells[1:]]) + " |")
    return "\n".join(lines) + "\n"


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


def trials_table(trials: Sequence[dict[str, Any]]) -> str:
    """In Markdown: every trial's arguments and its best epoch; a failed one with its reason."""
    names = list(dict.fromkeys(name for trial in trials for name in trial["parameters"]))
    headers = ["trial", *names, "validation accuracy", "best epoch", "seconds", "state"]
    lines = ["| " + " | ".join(headers) + " |", "| --- |" + " ---: |" * (len(headers) - 1)]
    for trial in trials:
        values = [number(trial["parameters"].get(name, _NONE)) for name in names]
        accuracy = _fixed((trial.get("metrics") or {}).get("validation_accuracy"), 4)
        state = (trial["reason"] or trial["state"]).replace("|", "\\|").replace("\n", " ")
        epoch = _NONE if trial["best_epoch"] is None else str(trial["best_epoch"])
        cells = [trial["trial_id"], *values, accuracy, epoch, f"{trial['seconds']:.0f}", state]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def terminal_table(variants: Sequence[dict[str, Any]], chosen: str | None) -> Table:
    """The table of variants for ``rich``, with the columns that fit a terminal."""
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


def are_compressed(variants: Sequence[dict[str, Any]]) -> bool:
    """Whether the table has a column of compressed sizes."""
    return any(row.get("compressed_size_mb") is not None for row in variants)


def have_floors(variants: Sequence[dict[str, Any]]) -> bool:
    """Whether the table has a column of floors."""
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


def number(value: Any) -> str:
    """Four digits of a float; all else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
