"""The report's tables of labels and slices, and the confusion matrix."""

import itertools
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from markdown_reader import parse, tables
from pictures import num_colours

from distiltune.export.report.plots import confusion as pictures
from distiltune.export.report.report import MOST_LABELS_OPEN, build_report, markdown_report, write_report

NASTY = "a|b\n# [x](javascript:1) <b onclick='z'> `w` *v* $x^2$ https://evil.example"


def labels_of(num: int) -> list[dict[str, Any]]:
    return [
        {"label": f"label {number}", "num_texts": 10, "precision": None, "recall": 0.5, "f1": 0.25}
        | {"teacher_recall": 0.75}
        for number in range(num)
    ]


def breakdown(num: int = 3, *, slices: bool = True, **more: Any) -> dict[str, Any]:
    rows = [
        {"column": "channel", "value": "mail", "num_texts": 1234, "num_right": 1000, "accuracy": 0.81037}
        | {"teacher_num_right": 1100, "teacher_accuracy": 0.89141, "difference": -0.08104}
    ]
    counts = np.eye(num, dtype=int) * 9 + np.eye(num, k=1, dtype=int)
    return {
        "accuracy_kind": "without_threshold",
        "labels": labels_of(num),
        "confusion": {"labels": [f"label {number}" for number in range(num)], "counts": counts.tolist()},
        "pairs": [{"label": "label 0", "predicted": "label 1", "num_texts": 7}],
        "slices": rows if slices else [],
        **more,
    }


def report(found: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    return build_report(
        run_id="run-1",
        state="finished",
        best=None,
        rows=[],
        chosen="onnx",
        artifact=None,
        machine={},
        extra={"breakdown": found, **more},
    )


def cells(text: str, head: str) -> list[list[str]]:
    return next(rows for rows in tables(text) if rows[0][0] == head)


def test_every_label_has_a_row() -> None:
    text = markdown_report(report(breakdown()))
    dash = "\N{EN DASH}"
    rows = cells(text, "label")
    assert rows[0] == ["label", "support on test", "precision", "recall", "F1", "teacher recall"]
    assert rows[1:] == [[f"label {n}", "10", dash, "0.5000", "0.2500", "0.7500"] for n in range(3)]
    assert "**onnx** on the test split, the lowest F1 first." in text
    assert "![confusion matrix](confusion.png)" in text
    assert "<details>" not in text
    with_threshold = markdown_report(report(breakdown(accuracy_kind="with_threshold")))
    assert "**onnx** on the test split, with its out-of-scope threshold," in with_threshold


def test_a_teacher_that_was_not_measured_has_no_column() -> None:
    found = breakdown(slices=False)
    found["labels"] = [{**each, "teacher_recall": None} for each in found["labels"]]
    text = markdown_report(report(found))
    assert cells(text, "label")[0][-1] == "F1"
    assert "Results by slice" not in text


@pytest.mark.parametrize("num", [MOST_LABELS_OPEN, MOST_LABELS_OPEN + 1])
def test_a_long_table_opens_on_demand(num: int) -> None:
    text = markdown_report(report(breakdown(num)))
    assert len(cells(text, "label")) == num + 1
    html = [token.content.strip() for token in parse(text) if token.type == "html_block"]
    folded = [f"<details>\n<summary>All {num} labels</summary>", "</details>"]
    assert html == (folded if num > MOST_LABELS_OPEN else [])


def test_many_labels_have_a_table_of_pairs(tmp_path) -> None:
    found = breakdown(50, confusion={"labels": [], "counts": None}, slices=False)
    text = markdown_report(report(found))
    assert cells(text, "label") != []
    assert "confused pairs" in text
    assert tables(text)[-1] == [["label", "predicted as", "test texts"], ["label 0", "label 1", "7"]]
    assert "confusion" not in write_report(report(found), tmp_path)
    assert not (tmp_path / "confusion.png").exists()


def test_slices_stand_beside_the_labels_in_the_summary_and_whole_below() -> None:
    lost = {"column": "channel", "value": "mail", "num_texts": 1234, "num_right": 1000}
    against = {"accuracy_kind": "without_threshold", "metric": "accuracy", "title": "accuracy"}
    against |= {"value": 0.8, "teacher_value": 0.9}
    against |= {"difference": -0.1, "low": -0.2, "high": 0.0, "num_texts": 2000, "changed": 0.1, "labels": []}
    against |= {"faster": 2.0, "smaller": 2.0, "slices": [{**lost, "teacher_num_right": 1100}]}
    text = markdown_report(report(breakdown(), against_teacher=against))
    assert "Slices that lose most against the teacher on test:" in text
    summary, whole = (rows for rows in tables(text) if rows[0][0] == "column")
    assert summary[1] == ["channel", "mail", "1234", "1100", "1000"]
    assert whole[0] == ["column", "value", "test texts", "accuracy", "teacher accuracy", "difference"]
    assert whole[1] == ["channel", "mail", "1,234", "0.8104", "0.8914", "-0.0810"]
    without = markdown_report(report(breakdown(), against_teacher={**against, "slices": []}))
    assert "Slices that lose most" not in without


def test_what_comes_from_data_is_shown_as_it_is(tmp_path) -> None:
    seen = NASTY.replace("\n", " ")
    found = breakdown(2)
    found["labels"][0]["label"] = found["confusion"]["labels"][0] = NASTY
    found["slices"] = [
        {**found["slices"][0], "column": NASTY, "value": value} for value in (NASTY, " ", "x" * 90)
    ]
    written = write_report(report(found), tmp_path)
    text = written["markdown"].read_text()
    assert cells(text, "label")[1][0] == seen
    slices = cells(text, "column")
    assert slices[1][:2] == [seen, f"{seen[:59]}…"]
    assert [row[1] for row in slices[2:]] == ["\N{EN DASH}", f"{'x' * 59}…"]
    assert not [token for token in parse(text) if token.type in {"link_open", "html_inline", "html_block"}]


def test_a_report_without_a_breakdown_has_no_such_sections() -> None:
    text = markdown_report(report(None))
    assert "Results by" not in text


@pytest.mark.parametrize("num", [2, 7, pytest.param(40, marks=pytest.mark.slow)])
def test_the_matrix_is_legible(num: int, tmp_path, monkeypatch) -> None:
    drawn = []
    save = pictures.save
    monkeypatch.setattr(pictures, "save", lambda figure, path: drawn.append(figure) or save(figure, path))
    random = np.random.default_rng(0)
    counts = random.integers(0, 4, (num, num)) + np.eye(num, dtype=int) * 30
    names = [f"label with a long name {number}" for number in range(num)]
    path = pictures.draw_confusion(names, counts.tolist(), tmp_path / "confusion.png")
    assert num_colours(matplotlib.image.imread(path)) > 50
    axes = drawn[0].axes[0]
    assert sorted(text.get_text() for text in axes.texts) == sorted(str(n) for n in counts.ravel() if n)
    frame = drawn[0].bbox
    bar = axes.child_axes[0]
    titles = [axes.title, axes.xaxis.label, axes.yaxis.label, bar.yaxis.label]
    for texts in (axes.get_xticklabels(), axes.get_yticklabels(), titles):
        boxes = [text.get_window_extent() for text in texts]
        assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= frame.x1 and box.y1 <= frame.y1 for box in boxes)
    heights = [tick.get_window_extent() for tick in axes.get_yticklabels()]
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(heights))
