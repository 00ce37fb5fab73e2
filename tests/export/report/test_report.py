import io
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from markdown_reader import ACTIVE, parse, tables
from pictures import num_colours
from rich.console import Console

from distiltune.export.benchmark.measure_models import Measurement
from distiltune.export.benchmark.measurements import shares_of_text
from distiltune.export.markdown import NONE
from distiltune.export.report.plots import latency as pictures
from distiltune.export.report.report import build_report, markdown_report, write_report
from distiltune.export.report.tables import (
    choice_table,
    markdown_table,
    profile_table,
    reused,
    terminal_table,
    time_of_text,
    verdicts,
    whole_sizes,
)

MACHINE = {
    "cpu": "A Processor",
    "num_usable_cores": 2,
    "instruction_sets": ["avx2"],
    "gpus": [{"name": "NVIDIA H200", "memory_gib": 140.4, "driver": "570.86.15", "cuda": "12.8"}],
    "os": "Linux",
    "python": "3.11",
    "versions": {"onnxruntime": "1.31.1"},
}
BEST = {
    "alpha": 0.2,
    "temperature": 4,
    "num_train_epochs": 8,
    "metric": "accuracy",
    "value": 0.94,
    "validation_accuracy": 0.94,
    "trial_id": "abc",
}


TRIALS = [
    {
        "trial_id": "abc",
        "parameters": {"alpha": 0.2},
        "metrics": {"validation_accuracy": 0.94},
        "best_epoch": 7,
        "seconds": 3.2,
        "state": "finished",
        "reason": None,
    },
    {
        "trial_id": "def",
        "parameters": {"alpha": 0.9},
        "metrics": {},
        "best_epoch": None,
        "seconds": 1.0,
        "state": "failed",
        "reason": "loss is | NaN\nsee the log",
    },
]


def row(name: str, kind: Any, accuracy: float | None, size: float, p50: float, **more) -> Measurement:
    times = {"mean": p50 * 1.1, "std": p50 / 20, "p50": p50, "p90": p50 * 1.2, "p99": p50 * 1.5}
    return Measurement(
        name=name,
        kind=kind,
        size_mb=size,
        latency_ms=times,
        sample_latency_ms=times,
        throughput={"1": 1000 / p50, "32": 3000 / p50},
        peak_memory_mb=200.0,
        num_threads=1,
        query="how much is left",
        accuracy=accuracy,
        in_scope_accuracy=accuracy,
        oos_recall=None,
        validation_accuracy=accuracy,
        **more,
    )


ROWS = [
    row("teacher-pytorch", "pytorch", 0.8785, 86.9, 11.4),
    row("student-pytorch", "pytorch", 0.852, 66.4, 6.1, gate="passed"),
    row("student-pytorch-int8", "pytorch-int8", 0.8509, 51.0, 4.4, gate="passed"),
    row("onnx", "onnx", 0.852, 66.4, 1.75, gate="passed", max_abs_diff=3e-7),
    row("onnx-fused", "onnx", 0.852, 66.4, 1.72, gate="passed", fused={"Attention": 3}),
    row("onnx-int8", "onnx", 0.8505, 17.1, 0.64, gate="passed"),
    row("onnx-int8-per-channel", "onnx", 0.8512, 17.2, 0.67, gate="failed"),
    row("reference-bert-base", "reference", None, 418.6, 59.2),
]


@pytest.fixture
def report() -> dict[str, Any]:
    return build_report(
        run_id="run-1",
        state="finished",
        best=BEST,
        rows=ROWS,
        chosen="onnx-int8",
        artifact="/somewhere/artifact",
        machine=MACHINE,
        extra={"stages": {"search": 12.5}, "trials": TRIALS, "state": "must not replace"},
    )


def test_shows_the_promised_fields(report: dict[str, Any]) -> None:
    assert list(report)[:6] == ["run_id", "state", "best", "variants", "chosen", "artifact"]
    assert report["state"] == "finished"
    assert [variant["name"] for variant in report["variants"]] == [row.name for row in ROWS]
    for variant in report["variants"]:
        for name in (
            "name",
            "accuracy",
            "in_scope_accuracy",
            "oos_recall",
            "size_mb",
            "latency_ms",
            "max_abs_diff",
            "gate",
        ):
            assert name in variant
        assert set(variant["latency_ms"]) == {"mean", "std", "p50", "p90", "p99"}


def test_ratios_are_against_teacher_student_and_reference(report: dict[str, Any]) -> None:
    ratios = report["ratios"]["onnx-int8"]
    assert list(ratios) == ["reference-bert-base", "teacher-pytorch", "student-pytorch"]
    assert ratios["reference-bert-base"]["faster"] == pytest.approx(59.2 / 0.64)
    assert ratios["reference-bert-base"]["smaller"] == pytest.approx(418.6 / 17.1)
    assert "teacher-pytorch" not in report["ratios"]["teacher-pytorch"]


ROC = {
    "in_scope": [0.0, 0.1, 1.0],
    "recall": [0.0, 0.9, 1.0],
    "chosen": {"in_scope": 0.1, "recall": 0.9},
}


CALIBRATION = {
    "temperature": 1.5,
    "in_scope_error_before": 0.091,
    "in_scope_error_after": 0.028,
    "out_of_scope_error_before": 0.3,
    "out_of_scope_error_after": None,
}


def confident(name: str, kind: Any, roc: dict[str, Any] | None) -> Measurement:
    """Return a row whose confidence was measured."""
    found = {"score": "energy", "value": 4.25, "label": "oos", "accuracy": 0.9145, "in_scope_accuracy": 0.94}
    found |= {"oos_recall": 0.8, "in_scope_refused": 0.03, "auroc": 0.965, "validation_accuracy": 0.93}
    refused = {"share": [0.0, 0.5, 0.9], "accuracy": [0.85, 0.96, 1.0]}
    bins = [
        {"confidence": 0.5, "accuracy": 0.4, "count": 10},
        {"confidence": 0.9, "accuracy": 0.92, "count": 90},
    ]
    curves = {"refused": refused, "roc": roc, "reliability": bins}
    more = {"with_threshold": found, "calibration": CALIBRATION, "curves": curves}
    return row(name, kind, 0.85, 17.0, 0.6, **more)


@pytest.mark.parametrize("roc", [ROC, None])
def test_says_what_confidence_is_worth(report: dict[str, Any], tmp_path: Path, roc: Any) -> None:
    rows = [confident("teacher-pytorch", "pytorch", roc), confident("onnx-int8", "onnx", roc)]
    variants = [each.to_json() for each in rows]
    paths = write_report({**report, "variants": variants}, tmp_path)
    assert paths["confidence"].read_bytes().startswith(b"\x89PNG")
    text = paths["markdown"].read_text()
    assert (
        "| **onnx-int8** | 1.500 | 0.0910 | 0.0280 | 0.3000 | \N{EN DASH} "
        "| energy 4.250 | 0.8500 | 0.9145 | 0.9400 | 0.8000 | 0.0300 | 0.9650 |" in text
    )
    variants[-1]["with_threshold"] |= {"score": "margin", "weight": 0.35, "output": 3}
    assert "| margin 4.250, weight 0.35 | 0.8500 |" in markdown_report({**report, "variants": variants})
    assert "- With threshold: " in text
    assert "![confidence](confidence.png)" in text


def test_says_why_each_was_chosen_or_not(report: dict[str, Any]) -> None:
    against = {"difference": -0.0045, "low": -0.00745, "high": -0.002, "confidence": 0.95}
    against |= {"only_first": 5, "only_second": 19, "num_texts": 3100, "p_value": 0.00661, "method": "score"}
    for variant in report["variants"]:
        if variant["name"] == "onnx-int8":
            variant |= {"against_student": against, "predictions_changed": 0.01097, "verdict": "chosen: so"}
        if variant["name"] == "onnx":
            variant |= {"verdict": "173 % slower than onnx-int8"}
    text = markdown_report(report)
    assert "| **onnx-int8** | -0.0045 | -0.0075 … -0.0020 | 5 | 19 | 0.0066 | chosen: so |" in text
    dash = "\N{EN DASH}"
    assert f"| onnx | {dash} | {dash} | {dash} | {dash} | {dash} | 173 % slower than onnx-int8 |" in text
    assert "| 1.10 % | passed |" in text
    assert "share of the 3,100 validation texts" in text
    assert "95 % confidence" in text
    assert verdicts(report["variants"]) == ["onnx: 173 % slower than onnx-int8", "onnx-int8: chosen: so"]


def test_the_choice_shows_the_teacher_too_where_it_was_compared(report: dict[str, Any]) -> None:
    student = {"difference": -0.0045, "low": -0.00745, "high": -0.002, "only_first": 5, "only_second": 19}
    student |= {"confidence": 0.95, "num_texts": 3100, "p_value": 0.00661, "method": "score"}
    teacher = {**student, "difference": -0.028, "low": -0.03512, "high": -0.0211}
    rows = {variant["name"]: variant for variant in report["variants"]}
    rows["onnx"] |= {"against_student": student, "verdict": "173 % slower than onnx-int8"}
    assert "teacher" not in choice_table(report["variants"], None)
    rows["onnx"] |= {"against_teacher": teacher}
    rows["onnx-int8"] |= {"against_student": student, "verdict": "chosen: so"}
    rows["student-pytorch"] |= {"against_teacher": teacher}
    lines = choice_table(report["variants"], "onnx-int8").splitlines()
    assert lines[0].endswith("| only student right | p | against teacher (limits) | why |")
    dash = "\N{EN DASH}"
    compared = "-0.0280 (-0.0351 … -0.0211)"
    first = "-0.0045 | -0.0075 … -0.0020 | 5 | 19 | 0.0066"
    assert lines[2:] == [
        f"| student-pytorch | {' | '.join([dash] * 5)} | {compared} | {dash} |",
        f"| onnx | {first} | {compared} | 173 % slower than onnx-int8 |",
        f"| **onnx-int8** | {first} | {dash} | chosen: so |",
    ]
    assert len({line.count(" | ") for line in [lines[0], *lines[2:]]}) == 1


def test_says_what_a_static_graph_left_out(report: dict[str, Any]) -> None:
    record = {"excluded": ["layer 0 feed-forward out"], "excluded_nodes": ["node_7"], "logits_error": 0.00314}
    graphs = {"variants": {"onnx-static-minmax": record}, "pictures": ["size-by-part.png"]}
    text = markdown_report({**report, "graphs": graphs})
    assert re.search(
        r"onnx-static-minmax: .*32 bits.*: layer 0 feed-forward out \(nodes node_7\).* 0\.31 %", text
    )
    assert "![size by part](size-by-part.png)" in text


def test_says_which_variants_the_student_cannot_have(report: dict[str, Any]) -> None:
    skipped = {"onnx-fused": "static has no attention to fuse"}
    text = markdown_report({**report, "graphs": {"variants": {}, "pictures": [], "skipped": skipped}})
    assert "\n- onnx-fused: not exported, static has no attention to fuse.\n" in text
    assert "not exported" not in markdown_report(report)


def test_writes_json_markdown_and_picture(report: dict[str, Any], tmp_path: Path) -> None:
    paths = write_report(report, tmp_path / "report")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "accuracy-latency.png",
        "report.json",
        "report.md",
    ]
    assert json.loads(paths["json"].read_text()) == report
    text = paths["markdown"].read_text()
    assert "**onnx-int8** (chosen)" in text
    assert "Against reference-bert-base: 92.5x faster" in text
    assert "reference-bert-base: the architecture" in text
    assert "onnx-fused: fused 3 Attention." in text
    assert "A Processor" in text
    assert "| abc | 0.2 | 0.9400 | 7 | 3 | finished |" in text
    assert "| def | 0.9 | \N{EN DASH} | \N{EN DASH} | 1 | loss is \\| NaN see the log |" in text
    assert "search 12.5 s" in text
    assert "test split" in text
    assert text.index("Chosen: **onnx-int8**.") < text.index("Against reference") < text.index("| variant |")
    picture = matplotlib.image.imread(paths["picture"])
    assert picture.shape[0] > 500
    assert picture.shape[1] > 900
    assert num_colours(picture) > 50


RATIO = {
    "faster": 93.07,
    "low": 91.24,
    "high": 95.51,
    "num_rounds": 22,
    "num_measured": 24,
    "own_ms": 0.64,
    "base_ms": 59.6,
    "waiting": 0.001,
}


def timed_in_turns(rows: list[Measurement], **more: Any) -> dict[str, Any]:
    return build_report(
        run_id="run-1",
        state="finished",
        best=None,
        rows=rows,
        chosen="onnx-int8",
        artifact=None,
        machine=MACHINE,
        extra={"interleaved": {"reference-bert-base": {**RATIO, **more}}},
    )


def test_a_ratio_that_was_measured_in_turns_has_its_interval() -> None:
    report = timed_in_turns(ROWS)
    found = report["ratios"]["onnx-int8"]["reference-bert-base"]
    assert {name: found[name] for name in ("faster", "low", "high")} == {
        "faster": 93.07,
        "low": 91.24,
        "high": 95.51,
    }
    others = [
        ratio for name, each in report["ratios"].items() for ratio in each.values() if name != "onnx-int8"
    ]
    assert others and all("low" not in ratio for ratio in others)
    text = markdown_report(report)
    assert "Against reference-bert-base: 93.1x (91.2 to 95.5) faster (one text, timed in turns" in text
    assert "onnx-int8 and reference-bert-base in turns: 22 rounds, medians 0.640 and 59.600 ms." in text
    assert "disturbed" not in text and "measured in run" not in text


def test_a_disturbed_or_reused_ratio_says_so() -> None:
    text = markdown_report(timed_in_turns(ROWS, waiting=0.2))
    assert "59.600 ms; disturbed by other processes" in text
    origin = {"run_id": "before", "at": "2026-01-02T10:00:00+00:00"}
    text = markdown_report(timed_in_turns(ROWS, reused=origin))
    assert "59.600 ms; measured in run before, on 2026-01-02." in text


def test_reused_measurements_name_their_run_and_day() -> None:
    origin = {"run_id": "before", "at": "2026-01-02T10:00:00+00:00"}
    rows = [replace(row, reused=origin) if row.name.startswith("onnx") else row for row in ROWS]
    names = ", ".join(row.name for row in rows if row.reused)
    report = timed_in_turns(rows)
    assert reused(report["variants"]) == [f"{names}: measured in run before, on 2026-01-02"]
    assert f"- {names}: measured in run before, on 2026-01-02. The ratio of two" in markdown_report(report)
    assert reused(timed_in_turns(ROWS)["variants"]) == []


NASTY = (
    "a|b\n# [x](javascript:1) ![y](http://evil.example/y.png) <b onclick='z'> `w` *v* https://evil.example"
)


def test_what_comes_from_data_is_shown_as_it_is(report: dict[str, Any]) -> None:
    rows = [replace(row, query=NASTY) for row in ROWS]
    rows[3] = replace(rows[3], name=NASTY, num_threads=2, fused={NASTY: 1})
    search = {"choice": NASTY, "ended_by": NASTY, "front": [NASTY, "b"], "pictures": ["search-front.png"]}
    trial = {**TRIALS[1], "reason": NASTY, "parameters": {NASTY: NASTY}}
    nasty = build_report(
        run_id="run-1",
        state="finished",
        best={NASTY: NASTY},
        rows=rows,
        chosen=NASTY,
        artifact=None,
        machine={**MACHINE, "cpu": NASTY, "versions": {NASTY: NASTY}},
        extra={
            "trials": [trial],
            "search": {**search, "left_out": {"search-importance.png": NASTY}},
            "graphs": {
                "variants": {
                    NASTY: {"excluded": [NASTY], "excluded_nodes": [NASTY], "logits_error": 0.1},
                },
                "pictures": ["size-by-part.png"],
            },
        },
    )
    for row in nasty["variants"]:
        row["verdict"] = NASTY
    text = markdown_report(nasty)
    used = [token.type for token in parse(text) if token.type in ACTIVE | {"code_inline", "em_open"}]
    assert used == ["image"] * 3
    assert [token.content for token in parse(text) if token.type == "heading_open"] == [""]
    seen = NASTY.replace("\n", " ")
    variants, choice, trials = tables(text)
    assert [row[0] for row in variants][4] == f"{seen} (chosen)"
    assert [row[0] for row in choice][4] == seen
    assert {row[-1] for row in choice[1:]} == {seen}
    assert (trials[0][1], trials[1][1], trials[1][-1]) == (seen, seen, seen)
    for shown in (variants, choice, trials):
        assert len({len(row) for row in shown}) == 1


def test_the_least_report_has_no_empty_sections() -> None:
    least = build_report(
        run_id="r", state="failed", best=None, rows=ROWS[:1], chosen=None, artifact=None, machine={}
    )
    text = markdown_report(least)
    assert "Chosen: none." in text
    assert "None" not in text
    assert not re.search(r"\n\n\n|Best trial|Machine|Time per stage|Pareto front", text)


def test_the_table_fits_a_terminal(report: dict[str, Any]) -> None:
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(terminal_table(report["variants"], report["chosen"]))
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "…" not in text
    assert "onnx-int8 * " in text
    assert "onnx-int8-per-channel" in text
    assert "failed" in text
    assert text.count("passed") == 5
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(terminal_table(report["variants"], "onnx-int8-per-channel"))
    assert "…" not in console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_columns_without_a_value_are_left_out(report: dict[str, Any]) -> None:
    def shown(variants: list[dict[str, Any]]) -> str:
        console = Console(width=120, file=io.StringIO(), color_system=None)
        console.print(terminal_table(variants, None))
        return console.file.getvalue() + markdown_table(variants, None)  # pyright: ignore[reportAttributeAccessIssue]

    text = shown(report["variants"])
    assert " oos " not in text and "oos recall" not in text and "with thr" not in text
    assert "in-scope" in text and "| gate |" in text
    first, *others = report["variants"]
    found = {"accuracy": 0.75, "score": "energy", "value": 1.0}
    text = shown([{**first, "oos_recall": 0.5, "with_threshold": found}, *others])
    assert " oos " in text and "| oos recall | with threshold |" in text and "with thr." in text


@pytest.mark.parametrize(("median", "lead"), [(8.0, "**Few texts:** "), (80.0, "Labels: ")])
def test_few_texts_of_labels_are_in_the_report(median, lead, report: dict[str, Any]) -> None:
    few = {
        "num_few": 3,
        "num_labels": 9,
        "median": median,
        "are_most": median < 16,
        "text": "3 of 9: do (this)",
    }
    assert f"\n{lead}3 of 9: do (this).\n" in markdown_report({**report, "few_labels": few})
    assert "Few texts" not in markdown_report(report)


def test_rows_line_up_with_the_headers(report: dict[str, Any]) -> None:
    lines = markdown_table(report["variants"], None).splitlines()
    assert len({line.count(" | ") for line in [lines[0], *lines[2:]]}) == 1
    assert "chosen" not in "".join(lines)


def test_the_floor_stands_beside_the_time(report: dict[str, Any]) -> None:
    assert "floor" not in markdown_table(report["variants"], None)
    for variant in report["variants"]:
        if variant["name"] == "onnx-int8":
            variant["floor_ms"] = {"bytes": 0.21, "operations": 0.1249, "floor": 0.21}
    text = markdown_report(report)
    dash = "\N{EN DASH}"
    assert "| p50 ms | floor ms | mean" in text
    assert "| 0.64 | 0.21 | 0.70" in text
    assert f"| 1.72 | {dash} | 1.89" in text
    assert "- Floor: " in text


PROFILE = {
    "total": 0.0573,
    "tokenize": 0.0171,
    "feed": 0.0021,
    "run": 0.0322,
    "decode": 0.0055,
    "tokenizer_alone": 0.0168,
    "session_alone": 0.0312,
    "first_call": 0.4124,
}


def test_where_a_texts_time_goes_is_shown_of_graphs_alone(report: dict[str, Any]) -> None:
    assert "time goes" not in markdown_report(report)
    for variant in report["variants"]:
        if variant["name"].startswith("onnx-int8"):
            variant["profile_ms"] = PROFILE
    text = markdown_report(report)
    head, rule, *rows = profile_table(report["variants"], "onnx-int8").splitlines()
    stages, floors = "tokenize ms | feed ms | run ms | decode ms", "tokenizer alone ms | session alone ms"
    assert head == f"| variant | {stages} | total ms | {floors} | own ms | first call ms |"
    assert rule.count("|") == head.count("|")
    shown = "0.017 | 0.002 | 0.032 | 0.005 | 0.057 | 0.017 | 0.031 | 0.009 | 0.412"
    assert rows == [f"| **onnx-int8** | {shown} |", f"| onnx-int8-per-channel | {shown} |"]
    assert "\n".join([head, rule, *rows]) in text
    assert text.index("Where a text's time goes") > text.index("| onnx-int8-per-channel | ")
    assert not re.search(r"\n\n\n", text)


def test_the_shares_of_a_text_add_up() -> None:
    shares = shares_of_text(PROFILE)
    assert list(shares) == ["tokenizing", "own Python", "bare session", "total"]
    assert sum(shares.values()) == pytest.approx(2 * PROFILE["total"])


def test_every_file_of_the_runtime_is_shown_beside_the_graph(report: dict[str, Any]) -> None:
    assert "files MB" not in markdown_table(report["variants"], None)
    assert "- Files:" not in markdown_report(report)
    for variant in report["variants"]:
        if variant["name"] == "onnx-int8":
            variant["files_mb"] = 18.648
    text, dash = markdown_report(report), "\N{EN DASH}"
    assert "| size MB | files MB | p50 ms |" in text
    assert "| 17.10 | 18.65 | 0.64 |" in text
    assert f"| 66.40 | {dash} | 1.75 |" in text
    assert "- Files: every file that the runtime reads" in text and "10^6 bytes" in text


def test_the_terminal_has_the_whole_size_and_the_time_of_a_text_below_its_table(
    report: dict[str, Any],
) -> None:
    variants = report["variants"]
    assert whole_sizes(variants) == time_of_text(variants, "onnx-int8") == []
    for variant in variants:
        if variant["name"].startswith("onnx-int8"):
            variant |= {"files_mb": 18.648, "profile_ms": PROFILE}
    [line] = whole_sizes(variants)
    assert line.endswith("in MB of 10^6 bytes: onnx-int8 18.65, onnx-int8-per-channel 18.65")
    shares = (
        "tokenizing 0.017 ms, own Python 0.009 ms, bare session 0.031 ms, total 0.057 ms; first call 0.412 ms"
    )
    assert time_of_text(variants, "onnx-int8") == [f"onnx-int8, one text: {shares}"]
    assert time_of_text(variants, None) == []


MANY = [
    row(
        f"onnx-variant-{number}",
        "onnx",
        0.85 + 0.0003 * (number * 7 % 20),
        16.6 + number % 3,
        0.6 + 0.01 * number,
    )
    for number in range(20)
]


CLOSE = [row(f"onnx-{number}", "onnx", 0.85, 20.0 - number, 0.35 + 0.01 * number) for number in range(6)]
SAME = [row(name, "onnx", 0.85, 20.0, 0.35) for name in ("a", "b", "c")]


@pytest.mark.parametrize(
    "rows",
    [ROWS, ROWS[:-1], ROWS[:1], ROWS[-1:], ROWS[3:5], ROWS[:1] + MANY, CLOSE + ROWS[:1], SAME],
    ids=["all", "no reference", "one", "reference alone", "two", "many", "close", "same"],
)
def test_each_circle_has_its_number_and_no_number_covers_another(
    rows: list[Measurement], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    save = pictures.save
    monkeypatch.setattr(pictures, "save", lambda figure, path: drawn.append(figure) or save(figure, path))
    path = pictures.draw_accuracy_latency([row.to_json() for row in rows], rows[0].name, tmp_path / "a.png")
    assert path.is_file()
    numbers = []
    for axes in drawn[0].axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
        frame = axes.get_window_extent()
        assert all(frame.x0 < box.x0 and box.x1 < frame.x1 and box.y1 < frame.y1 for box in boxes)
        numbers += [int(number) for text in axes.texts for number in text.get_text().split(", ")]
    circles = sorted((row for row in rows if row.accuracy is not None), key=lambda row: row.latency_ms["p50"])
    assert sorted(numbers) == list(range(1, len(circles) + 1))
    (key,) = drawn[0].legends
    texts = [text.get_text() for text in key.get_texts()]
    assert [text.split(":")[0] for text in texts[: len(circles)]] == [
        f"{number}  {row.name}" for number, row in enumerate(circles, 1)
    ]
    assert len(texts) == len(rows)
    title = drawn[0]._suptitle.get_window_extent()
    assert not title.overlaps(key.get_window_extent())


def test_the_front_has_the_rows_that_none_beats() -> None:
    rows = [row.to_json() for row in ROWS if row.accuracy is not None]
    found = pictures.front_of(rows)
    assert [each["name"] for each in found] == [
        "onnx-int8",
        "onnx-int8-per-channel",
        "onnx-fused",
        "teacher-pytorch",
    ]


def test_a_disturbed_timing_is_marked_and_explained() -> None:
    rows = [replace(each, waiting=0.3 if each.name == "onnx-int8" else 0.001) for each in ROWS]
    report = build_report(
        run_id="a-run", state="finished", best=None, rows=rows, chosen="onnx", artifact=None, machine={}
    )
    written = markdown_report(report)
    assert "onnx-int8: its timing was disturbed: it waited 30 %" in written
    assert written.count("was disturbed") == 1
    (line,) = [line for line in written.splitlines() if line.startswith("| onnx-int8 ")]
    assert "0.64? " in line
    assert [each.is_disturbed for each in rows].count(True) == 1


GPU_ROWS = [
    row("teacher-pytorch@torch-cuda", "torch-cuda", 0.8785, 86.9, 4.0, model="teacher-pytorch"),
    row(
        "onnx-fused-fp16@cuda",
        "cuda",
        0.851,
        33.2,
        0.5,
        gate="passed",
        model="onnx-fused-fp16",
        num_nodes={"CUDAExecutionProvider": 60, "CPUExecutionProvider": 3},
        cuda_graphs={"latency_ms": {"p50": 0.25}, "throughput": {"1": 4000.0, "32": 90000.0}},
    ),
    row(
        "onnx@cuda",
        "cuda",
        0.852,
        66.4,
        0.9,
        gate="passed",
        model="onnx",
        cuda_graphs={"error": "not all nodes | are on CUDA"},
    ),
    row("onnx@tensorrt", "tensorrt", 0.852, 66.4, 0.4, gate="passed", model="onnx", engine_build_s=31.25),
]


@pytest.fixture
def gpu_report() -> dict[str, Any]:
    extra = {"gpu_machine": {**MACHINE, "cpu": "A Host of GPUs"}}
    return build_report(
        run_id="run-1",
        state="finished",
        best=BEST,
        rows=[*ROWS, *GPU_ROWS],
        chosen="onnx-int8",
        artifact="/somewhere/artifact",
        machine=MACHINE,
        extra=extra,
    )


def test_rows_on_a_gpu_have_a_table_of_their_own(gpu_report) -> None:
    text = markdown_report(gpu_report)
    (found,) = (each for each in tables(text) if "engine build s" in each[0])
    headers, *cells = found
    assert headers == [
        "model",
        "target",
        "p50 ms",
        "texts/s at 1",
        "texts/s at 32",
        "engine build s",
        "nodes on the CPU",
    ]
    by_name = {(line[0], line[1]): line[2:] for line in cells}
    assert by_name["teacher-pytorch", "torch-cuda"] == ["4.000", "250", "750", NONE, NONE]
    assert by_name["onnx-fused-fp16", "cuda"] == [
        "0.500 / 0.250",
        "2000 / 4000",
        "6000 / 90000",
        NONE,
        "3 of 63",
    ]
    assert by_name["onnx", "tensorrt"] == ["0.400", "2500", "7500", "31.2", NONE]
    assert r"- onnx\@cuda: no CUDA graphs: not all nodes \| are on CUDA." in text
    assert "Machine of the measurements on a GPU: A Host of GPUs" in text
    assert text.count("Machine: A Processor") == 1


def test_without_them_nothing_of_a_gpu_is_said(report) -> None:
    assert "GPU" not in markdown_report(report)


def test_rows_on_a_gpu_are_compared_with_pytorch_there(gpu_report) -> None:
    ratios = gpu_report["ratios"]
    assert list(ratios["onnx-fused-fp16@cuda"]) == ["teacher-pytorch@torch-cuda"]
    assert ratios["onnx-fused-fp16@cuda"]["teacher-pytorch@torch-cuda"]["faster"] == pytest.approx(8.0)
    assert "teacher-pytorch@torch-cuda" not in ratios["onnx-int8"]
    assert list(ratios["teacher-pytorch@torch-cuda"]) == []
