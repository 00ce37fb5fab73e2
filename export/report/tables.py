"""Tables of a report: in Markdown, and one for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...training.tasks import title_of
from ..benchmark.contention import MOST_WAITING, NUM_TRIES
from ..benchmark.measurements import shares_of_text, times_of_text
from ..markdown import NONE, Markdown, bold, fixed, number, table

if TYPE_CHECKING:
    from rich.table import Table

_METRIC = "metric"
_HEADERS = (
    "variant",
    _METRIC,  # the job's, where it is not accuracy, under its own name
    "accuracy",
    "in-scope",
    "oos recall",
    "with threshold",
    "validation",
    "size MB",
    "files MB",
    "compressed MB",
    "p50 ms",
    "floor ms",
    "mean ± std ms",
    "p99 ms",
    "sample p50 ms",
    "texts/s",
    "memory MB",
    "max diff",
    "changed",
    "gate",
)
# Header in the full table -> header in the terminal, for the columns that fit a width of 80.
_TERMINAL_HEADERS = {
    "variant": "variant",
    _METRIC: _METRIC,
    "accuracy": "accuracy",
    "in-scope": "in-scope",
    "oos recall": "oos",
    "with threshold": "with thr.",
    "size MB": "size MB",
    "p50 ms": "p50 ms",
    "gate": "gate",
}


def markdown_table(variants: Sequence[dict[str, Any]], chosen: str | None) -> Markdown:
    """Return the table of ``report["variants"]`` in Markdown, without empty columns, with the chosen row in bold."""
    found = list(_cells(variants, chosen))
    kept = _filled([cells for cells, _ in found])
    named = {_METRIC: _metric_title(variants)}
    headers = [named.get(_HEADERS[i], _HEADERS[i]) for i in kept]
    more = _further_metrics(variants)
    place = sum(i < _HEADERS.index("size MB") for i in kept)
    headers[place:place] = [title_of(name) for name in more]
    rows = []
    for row, (every, is_chosen) in zip(variants, found, strict=True):
        cells = [every[i] for i in kept]
        cells[place:place] = [
            fixed(((row.get("metrics") or {}).get(name) or {}).get("test"), 4) for name in more
        ]
        name = Markdown(f"{bold(cells[0])} (chosen)") if is_chosen else cells[0]
        rows.append([name, *cells[1:]])
    return table(headers, rows)


def _further_metrics(variants: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of the task's metrics without a column of their own."""
    own = {row["metric"]["name"] for row in variants if row.get("metric")}
    names = dict.fromkeys(name for row in variants for name in row.get("metrics") or {})
    return [name for name in names if name not in own]


def profile_table(variants: Sequence[dict[str, Any]], chosen: str | None) -> Markdown:
    """Return a Markdown table of the time of each stage of one text, for the rows that were profiled."""
    shown = [row for row in variants if row.get("profile_ms")]
    times = [times_of_text(row["profile_ms"]) for row in shown]
    headers = ["variant", *dict.fromkeys(f"{name} ms" for each in times for name in each)]
    rows = [
        [_name(row, chosen), *(fixed(value, 3) for value in each.values())]
        for row, each in zip(shown, times, strict=True)
    ]
    return table(headers, rows)


def choice_table(variants: Sequence[dict[str, Any]], chosen: str | None) -> Markdown:
    """Return a Markdown table of each variant's metric on the validation split against the student's, with its verdict.

    It includes the difference from the teacher, with limits, where that was compared.
    """
    has_teacher = has_any(variants, "against_teacher")
    headers = ["variant", "against student", "limits", "only it right", "only student right", "p"]
    headers += ["against teacher (limits)", "why"] if has_teacher else ["why"]
    rows = []
    for row in variants:
        found, teacher, verdict = (row.get(key) for key in ("against_student", "against_teacher", "verdict"))
        if found is None and teacher is None and verdict is None:
            continue
        cells = [NONE] * 5
        if found is not None:
            cells = [
                f"{found['difference']:+.4f}",
                _limits(found),
                *(
                    number(NONE if found[name] is None else found[name])
                    for name in ("only_first", "only_second")
                ),
                f"{found['p_value']:.2g}",
            ]
        if has_teacher:
            cells.append(f"{teacher['difference']:+.4f} ({_limits(teacher)})" if teacher else NONE)
        rows.append([_name(row, chosen), *cells, verdict or NONE])
    return table(headers, rows, left=(0, len(headers) - 1))


def _limits(found: dict[str, Any]) -> str:
    return f"{found['low']:+.4f} … {found['high']:+.4f}"


def verdicts(variants: Sequence[dict[str, Any]]) -> list[str]:
    """Return why each variant was chosen or not, one line each."""
    return [f"{row['name']}: {row['verdict']}" for row in variants if row.get("verdict")]


def disturbed(variants: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line for each model whose timing other processes disturbed."""
    return [
        f"{row['name']}: its timing was disturbed: it waited {100 * row['waiting']:.0f} % of the time for a processor "
        f"that other processes used, in the best of {NUM_TRIES} tries; measure again on an idle machine"
        for row in variants
        if _is_disturbed(row)
    ]


def reused(variants: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line for each run whose measurements were reused, with their models and date."""
    by_run: dict[tuple[str, str], list[str]] = {}
    for row in variants:
        if row.get("reused"):
            by_run.setdefault((row["reused"]["run_id"], row["reused"]["at"][:10]), []).append(row["name"])
    return [
        f"{', '.join(names)}: measured in run {run_id}, on {day}" for (run_id, day), names in by_run.items()
    ]


def sentence(found: dict[str, Any]) -> str:
    """Return what the selected variant gains over a baseline, and the verdict on it, from ``against_baselines``."""
    return "; ".join(filter(None, [found["text"], found["verdict"]]))


def trained(variants: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line for each baseline: how it was trained, for how long, and how its size is counted."""
    return [
        f"{row['name']}: trained on the {found['num_texts']:,} labelled training texts in {found['seconds']:.1f} s, by "
        f"{found['features']}; its size, {found['bytes'] / 1e6:.1f} million bytes, is that of everything it needs to "
        "classify (words and weights) in one file"
        for row in variants
        if (found := row.get("training"))
    ]


def whole_sizes(variants: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line with the size of every file that the runtime reads of each variant, where that was measured."""
    sizes = [f"{row['name']} {row['files_mb']:.2f}" for row in variants if row.get("files_mb") is not None]
    title = "every file that the runtime reads (graph, tokenizer, settings), in MB of 10^6 bytes: "
    return [title + ", ".join(sizes)] if sizes else []


def time_of_text(variants: Sequence[dict[str, Any]], chosen: str | None) -> list[str]:
    """Return a line with the time of each stage of one text in the chosen variant, where that was measured."""
    return [
        f"{row['name']}, one text: "
        + ", ".join(f"{name} {each:.3f} ms" for name, each in shares_of_text(row["profile_ms"]).items())
        + f"; first call {row['profile_ms']['first_call']:.3f} ms"
        for row in variants
        if row["name"] == chosen and row.get("profile_ms")
    ]


def _is_disturbed(row: dict[str, Any]) -> bool:
    return (row.get("waiting") or 0.0) > MOST_WAITING


def losses_table(labels: Sequence[dict[str, Any]]) -> Markdown:
    """Return a Markdown table of ``report["against_teacher"]["labels"]``: texts (or entities) that each has right."""
    rows = [
        [each["label"], each["num_texts"], each["teacher_num_right"], each["num_right"]] for each in labels
    ]
    return table(["label", "support on test", "teacher right", "chosen right"], rows)


def scope_table(variants: Sequence[dict[str, Any]], chosen: str | None) -> Markdown:
    """Return a Markdown table of each row's calibration error and the effect of its threshold on the test split."""
    shown = [row for row in variants if row.get("calibration")]
    headers = ["variant", "temperature", "calibration error before", "after", "out-of-scope before", "after"]
    if not has_any(variants, "accuracy"):  # of a task without out-of-scope texts
        rows = [[_name(row, chosen), *_calibration_cells(row["calibration"])[:3]] for row in shown]
        return table(headers[:4], rows)
    if any(row.get("with_threshold") for row in shown):
        headers += ["threshold", "accuracy without", "with", "in-scope with", "oos recall with"]
        headers += ["in-scope refused", "AUROC"]
    rows = []
    for row in shown:
        found = row.get("with_threshold") or {}
        cells = [_name(row, chosen), *_calibration_cells(row["calibration"])]
        if found:
            weight = "" if found.get("weight") is None else f", weight {found['weight']:g}"
            cells += [f"{found['score']} {found['value']:.3f}{weight}", fixed(row["accuracy"], 4)]
            names = ("accuracy", "in_scope_accuracy", "oos_recall", "in_scope_refused", "auroc")
            cells += [fixed(found[name], 4) for name in names]
        rows.append([*cells, *[NONE] * (len(headers) - len(cells))])
    return table(headers, rows)


def _calibration_cells(found: dict[str, Any]) -> list[str]:
    errors = [
        f"{scope}_error_{stage}" for scope in ("in_scope", "out_of_scope") for stage in ("before", "after")
    ]
    return [fixed(found["temperature"], 3), *(fixed(found[name], 4) for name in errors)]


def trials_table(trials: Sequence[dict[str, Any]], metric: str) -> Markdown:
    """Return a Markdown table of every trial's parameters and best epoch; a failed trial shows its reason."""
    names = list(dict.fromkeys(name for trial in trials for name in trial["parameters"]))
    headers = ["trial", *names, f"validation {title_of(metric)}", "best epoch", "seconds", "state"]
    rows = []
    for trial in trials:
        values = [number(trial["parameters"].get(name, NONE)) for name in names]
        value = fixed((trial.get("metrics") or {}).get(f"validation_{metric}"), 4)
        epoch = NONE if trial["best_epoch"] is None else trial["best_epoch"]
        state = trial["reason"] or trial["state"]
        rows.append([trial["trial_id"], *values, value, epoch, fixed(trial["seconds"], 0), state])
    return table(headers, rows)


def _name(row: dict[str, Any], chosen: str | None) -> str:
    return bold(row["name"]) if row["name"] == chosen else row["name"]


def terminal_table(variants: Sequence[dict[str, Any]], chosen: str | None) -> Table:
    """Return the ``rich`` table of variants, with the columns that fit a terminal and are not empty."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    found = list(_cells(variants, chosen))
    kept = [i for i in _filled([cells for cells, _ in found]) if _HEADERS[i] in _TERMINAL_HEADERS]
    named = {**_TERMINAL_HEADERS, _METRIC: _metric_title(variants)}
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    for i in kept:
        table.add_column(escape(named[_HEADERS[i]]), justify="left" if i == 0 else "right", no_wrap=True)
    for cells, is_chosen in found:
        marked = [f"{cells[0]} *" if is_chosen else cells[0], *cells[1:]]
        table.add_row(*(marked[i] for i in kept), style="bold" if is_chosen else None)
    return table


def _filled(rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the indices of the columns in which any row has a value."""
    return [i for i in range(len(_HEADERS)) if any(row[i] != NONE for row in rows)]


def _metric_title(variants: Sequence[dict[str, Any]]) -> str:
    """Return the name of the job's metric for display, empty where it is accuracy."""
    return next((title_of(row["metric"]["name"]) for row in variants if row.get("metric")), "")


def has_any(variants: Sequence[dict[str, Any]], key: str) -> bool:
    """Return whether any row has a value for ``key``."""
    return any(row.get(key) is not None for row in variants)


def _cells(variants: Sequence[dict[str, Any]], chosen: str | None) -> Iterator[tuple[list[str], bool]]:
    """Yield the cells of each row in the order of ``_HEADERS``, and whether it is the chosen one."""
    for row in variants:
        latency = row["latency_ms"] or {}
        spread = f"{latency['mean']:.2f} ± {latency['std']:.2f}" if latency else NONE
        throughput = list((row.get("throughput") or {}).values())
        gate = row["gate"] or NONE
        difference, changed = row.get("max_abs_diff"), row.get("predictions_changed")
        yield (
            [
                row["name"],
                fixed((row.get("metric") or {}).get("test"), 4),
                *(fixed(row.get(key), 4) for key in ("accuracy", "in_scope_accuracy", "oos_recall")),
                fixed((row.get("with_threshold") or {}).get("accuracy"), 4),
                fixed(row.get("validation_accuracy"), 4),
                fixed(row.get("size_mb"), 2),
                fixed(row.get("files_mb"), 2),
                fixed(row.get("compressed_size_mb"), 2),
                fixed(latency.get("p50"), 2) + ("?" if _is_disturbed(row) else ""),
                fixed((row.get("floor_ms") or {}).get("floor"), 2),
                spread,
                fixed(latency.get("p99"), 2),
                fixed((row.get("sample_latency_ms") or {}).get("p50"), 2),
                fixed(throughput[-1] if throughput else None, 0),
                fixed(row.get("peak_memory_mb"), 0),
                NONE if difference is None else f"{difference:.1e}",
                NONE if changed is None else f"{100 * changed:.2f} %",
                gate,
            ],
            row["name"] == chosen,
        )
