"""The table of several teachers and their mixture in a report, and their lines on the terminal."""

import re

from markdown_reader import tables

from distiltune.export.markdown import fixed
from distiltune.export.report.report import build_report, markdown_report
from distiltune.export.report.teacher_tables import gain_in_words, teacher_lines

MEMBER = {"missing": {"validation": 0, "test": 0}, "temperature": 1.0}


def metrics(accuracy, inside=None, outside=None):
    return {"accuracy": accuracy, "in_scope_accuracy": inside, "oos_recall": outside}


FOUND = {
    "weights": "fit",
    "metric": "accuracy",
    "best": 1,
    "members": [
        {**MEMBER, "teacher": "a|b", "weight": 0.25, "validation": metrics(0.8), "test": metrics(0.7, 0.75, 0.5),
         "others": {"validation": metrics(0.9), "test": metrics(0.85, 0.9, 0.4)},
         "temperature": 2.5, "missing": {"validation": 0, "test": 1200}},
        {**MEMBER, "teacher": "logits of llm.csv", "weight": 0.75, "validation": metrics(0.9),
         "test": metrics(0.8, 0.85, 0.6), "others": {"validation": metrics(0.8), "test": None}},
    ],
    "mixture": {"validation": metrics(0.93), "test": metrics(0.83, 0.88, 0.63)},
}  # fmt: skip


def report_of(found):
    report = build_report(
        run_id="r", state="finished", best=None, rows=[], chosen=None, artifact=None, machine={},
        extra={"teachers": found},
    )  # fmt: skip
    return markdown_report(report)


def test_a_report_shows_each_teacher_and_the_mixture():
    text = report_of(FOUND)
    table = next(each for each in tables(text) if each[0][0] == "teacher")
    assert table[0] == [
        "teacher", "weight", "temperature", "validation accuracy", "test accuracy", "test in-scope",
        "test oos recall", "mixture without it", "in-scope without it", "oos recall without it",
    ]  # fmt: skip
    assert table[1] == [
        "a|b",
        "0.25",
        "2.50",
        "0.8000",
        "0.7000",
        "0.7500",
        "0.5000",
        "0.8500",
        "0.9000",
        "0.4000",
    ]
    assert table[2][-3:] == [fixed(None, 4)] * 3
    assert table[3][:1] + table[3][3:7] == ["mixture", "0.9300", "0.8300", "0.8800", "0.6300"]
    assert "weights that were fitted on the validation split" in text and "divided by its temperature" in text
    assert "(logits of llm.csv) 0.8000: a difference of +0.0300" in text
    assert "- a\\|b lacks 1,200 of test" in text


def test_what_is_not_measured_is_not_shown():
    """There are no out-of-scope texts, temperatures are equal, and one teacher has no test text."""
    members = [{**each, "temperature": 1.0, "test": metrics(0.8)} for each in FOUND["members"]]
    members[1]["test"] = None
    found = {**FOUND, "members": members, "weights": "given"}
    found["mixture"] = {"validation": metrics(0.9), "test": metrics(0.9)}
    text = report_of(found)
    assert "oos recall" not in text and "divided by its temperature" not in text and "these weights" in text
    assert "is not known" in gain_in_words(found)
    assert "## Teachers" not in report_of(None)


def test_the_terminal_has_a_line_for_each():
    lines = list(teacher_lines(FOUND))
    assert lines[0] == "teacher a|b: weight 0.25, accuracy validation 0.8000, test 0.7000"
    assert re.fullmatch(r"mixture of 2 teachers: accuracy validation 0\.9300, test 0\.8300", lines[-1])
