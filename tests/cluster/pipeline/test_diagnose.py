"""Diagnostics of a job's own texts: the record, the CSV files, and the report's section."""

import csv
import io

import datasets
import numpy as np
import pytest

from distiltune.cluster.pipeline.diagnose import (
    DUPLICATES_FILE,
    ISSUES_FILE,
    CrossFit,
    describe,
    diagnose,
)
from distiltune.cluster.store.runs import Run
from distiltune.export.report.report import build_report, markdown_report
from distiltune.storage.store import Store
from distiltune.training import tasks
from distiltune.training.data.text_data import TextData
from distiltune.training.data.tokenized import LabelledSplit, TokenizedSplit

NAMES = ["cancel | order", "greet", "track"]
WRONG = 7


def text_data() -> TextData:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)}
    )
    subjects = [
        "parcel",
        "invoice",
        "letter",
        "table",
        "basket",
        "lamp",
        "chair",
        "carpet",
        "mirror",
        "pillow",
    ]
    texts = [f"what happened to the {subject} number {n}" for n in range(3) for subject in subjects]
    labels = [n % 3 for n in range(30)]
    split = datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features)
    other = ["entirely different words stand here", "what happened to the parcel number 0 please"]
    test = datasets.Dataset.from_dict({"text": other, "label": [0, 1]}, features=features)
    return TextData(datasets.DatasetDict(train=split, validation=split, test=test), None)


def labelled(data: TextData, split: str, *, with_logits: bool = True) -> LabelledSplit:
    """A teacher that is confident in every label, but predicts the next label for row ``WRONG``."""
    labels = np.array(data.splits[split]["label"][:])
    predicted = labels.copy()
    predicted[WRONG] = (labels[WRONG] + 1) % 3
    noise = np.random.default_rng(0).normal(scale=0.01, size=(len(labels), 3))
    logits = (5 * np.eye(3)[predicted] + noise).astype(np.float32)
    logits[WRONG] *= 2
    offsets = np.arange(len(labels) + 1)
    tokens = TokenizedSplit(np.zeros(len(labels), np.int32), offsets, labels, offsets[1:])
    return LabelledSplit(tokens, logits if with_logits else None)


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(Store(str(tmp_path)), "a-run")


def report_of(found) -> str:
    report = build_report(
        run_id="a-run", state="finished", best=None, rows=[], chosen=None, artifact=None, machine={},
        extra={"diagnostics": found},
    )  # fmt: skip
    return markdown_report(report)


def rows_of(run: Run, name: str) -> list[dict[str, str]]:
    content = run.store.read(run.key(name))
    assert content is not None
    return list(csv.DictReader(io.StringIO(content.decode())))


def test_a_label_that_the_teacher_contradicts_is_in_the_record_and_the_file(run) -> None:
    data = text_data()
    splits = {name: labelled(data, name) for name in ("train", "validation")}
    found = diagnose(run, data, splits, tasks.SINGLE_LABEL, learned_here=True)
    assert found["label_issues"]["num"] == {"validation": 1, "train": 1}
    shown = found["label_issues"]["shown"][0]
    text = data.splits["validation"]["text"][WRONG]
    assert (shown["row"], shown["text"]) == (WRONG + 1, text)
    assert (shown["label"], shown["predicted"]) == (NAMES[WRONG % 3], NAMES[(WRONG + 1) % 3])
    assert shown["label_probability"] < 0.01 < 0.99 < shown["predicted_probability"]
    assert [row["text"] for row in rows_of(run, ISSUES_FILE)] == [text, text]
    (pair,) = found["confused_labels"]
    assert set(pair["labels"]) == {NAMES[1], NAMES[2]}
    assert pair["first_as_second"] + pair["second_as_first"] == 1
    assert found["near_duplicates"]["num"] == {"test": 1}
    assert rows_of(run, DUPLICATES_FILE)[0]["other_text"] == "what happened to the parcel number 0"
    assert "2 labels that are probably wrong and 1 near-duplicates" in describe(found)


def test_without_logits_only_the_texts_are_compared(run) -> None:
    data = text_data()
    splits = {name: labelled(data, name, with_logits=False) for name in ("train", "validation")}
    found = diagnose(run, data, splits, tasks.SINGLE_LABEL, learned_here=False)
    assert found["label_issues"] == {"num": {}, "shown": []}
    assert found["confused_labels"] == []
    assert run.store.read(run.key(ISSUES_FILE)) is None
    assert found["near_duplicates"]["num"] == {"test": 1}


def test_out_of_sample_probabilities_replace_those_of_a_teacher_that_learned_the_labels(run) -> None:
    data, other = text_data(), 11
    splits = {name: labelled(data, name) for name in ("train", "validation")}
    labels = np.array(data.splits["train"]["label"][:])
    logits = 5 * np.eye(3, dtype=np.float32)[np.where(np.arange(30) == other, (labels + 1) % 3, labels)]
    calls = []

    def cross_fit() -> CrossFit:
        calls.append(1)
        return CrossFit(logits, {"num_folds": 3, "num_epochs": 2, "keys": ["a", "b", "c"]})

    before = splits["train"].teacher_logits
    found = diagnose(run, data, splits, tasks.SINGLE_LABEL, learned_here=True, cross_fit=cross_fit)
    assert found["cross_fit"] == {
        "num_folds": 3,
        "num_epochs": 2,
        "keys": ["a", "b", "c"],
        "accuracy": pytest.approx(29 / 30),
    }
    rows = rows_of(run, ISSUES_FILE)
    assert [(row["split"], row["row"]) for row in rows] == [
        ("validation", str(WRONG + 1)),
        ("train", str(other + 1)),
    ]
    assert {row["probabilities"] for row in rows} == {"out of sample"}
    assert splits["train"].teacher_logits is before
    assert diagnose(run, data, splits, tasks.SINGLE_LABEL, learned_here=True, cross_fit=cross_fit) == found
    assert calls == [1], "a resumed run has them"
    written = report_of(found)
    assert "out of sample: each text was labelled by one of 3 teachers" in written
    assert "2 epochs each (accuracy on these labels 0.9667)" in written
    assert "in sample" not in written


def test_without_logits_of_the_teacher_those_of_the_folds_are_diagnosed(run) -> None:
    data = text_data()
    splits = {name: labelled(data, name, with_logits=False) for name in ("train", "validation")}
    logits = labelled(data, "train").teacher_logits
    assert logits is not None
    fitted = CrossFit(logits, {"num_folds": 2, "num_epochs": 1, "keys": []})
    found = diagnose(run, data, splits, tasks.SINGLE_LABEL, learned_here=True, cross_fit=lambda: fitted)
    assert found["label_issues"]["num"] == {"train": 1}


@pytest.mark.parametrize(
    ("learned_here", "origins", "message"),
    [
        (True, ["out of sample", "in sample"], "data.diagnostics.cross_fit: 5"),
        (False, ["of a finished checkpoint"] * 2, None),
    ],
)
def test_file_and_report_say_where_probabilities_are_from(learned_here, origins, message, run) -> None:
    data = text_data()
    splits = {name: labelled(data, name) for name in ("train", "validation")}
    found = diagnose(run, data, splits, tasks.SINGLE_LABEL, learned_here=learned_here)
    assert [row["probabilities"] for row in rows_of(run, ISSUES_FILE)] == origins
    written = report_of(found)
    assert ("in sample" in written) == (message is not None)
    assert message is None or message in written


def test_the_report_shows_them_and_escapes_what_comes_from_the_data(run) -> None:
    data = text_data()
    splits = {name: labelled(data, name) for name in ("train", "validation")}
    found = diagnose(run, data, splits, tasks.SINGLE_LABEL, learned_here=True)
    found["label_issues"]["shown"][0]["text"] = "a | b [link](http://x) <b> " + "x" * 200
    report = build_report(
        run_id="a-run", state="finished", best=None, rows=[], chosen=None, artifact=None, machine={},
        extra={"diagnostics": found},
    )  # fmt: skip
    written = markdown_report(report)
    assert "## Labels that are probably wrong" in written
    assert "1 texts of validation and 1 texts of train" in written
    assert "## Near-duplicates across splits" in written
    assert r"a \| b \[link](http\://x) \<b>" in written
    assert "x" * 100 not in written
    empty = {key: {"num": {}, "shown": []} for key in ("label_issues", "near_duplicates")}
    report["diagnostics"] = {**empty, "confused_labels": [], "learned_here": True}
    assert "##" not in markdown_report(report).replace("# Run", "")
